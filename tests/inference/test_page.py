"""The page: its policy, and what a person sees in a real browser."""

import json
import re
import shutil

import httpx
import pytest

import bam_lightning as bam
from bam_lightning.inference.serving.page import FILE, policy
from bam_lightning.store.run_dir import manifest_digest
from conftest import serving

HOSTILE = '<img src=x onerror="document.title=1"><b>yes</b>'
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def test_the_policy_lets_only_the_pages_own_style_and_script_run(served):
    answer = httpx.get(served.url)
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/]{43}='; script-src 'sha256-[\w+/]{43}='; connect-src 'self'; "
        r"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        answer.headers["content-security-policy"],
    )
    assert policy(answer.text.replace("use strict", "use strict ")) != answer.headers["content-security-policy"]


def test_the_page_needs_nothing_from_elsewhere():
    text = FILE.read_text()
    assert not re.search(r"https?://|\son\w+=|style=|innerHTML|insertAdjacent|document\.write|eval\(", text)
    assert text.isascii()


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium; skips the test, with the reason, where there is none."""
    place = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if place is None or driver is None:
        missing = "browser (chromium or google-chrome)" if place is None else "chromedriver"
        pytest.skip(f"no {missing} on PATH; Debian has both in chromium and chromium-driver")
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = place
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1000"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        window = webdriver.Chrome(options=options, service=Service(driver))
    except WebDriverException as error:  # of the machine, not of the page
        pytest.skip(f"{place} does not start here: {error.msg}")
    try:
        window.set_page_load_timeout(60)
        yield window
    finally:
        window.quit()


@pytest.fixture
def window(chromium):
    """The browser, with nothing in its log."""
    chromium.get_log("browser")
    return chromium


def wait(window, script):
    """Return what a script of the page returns, once that is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(window, 30).until(lambda page: page.execute_script(script))


def cards(window, count):
    """Return the answers as a person reads them: task -> lines of its card."""
    shown = "[...document.querySelectorAll('#answers .card')].map(one => [one.dataset.task, one.innerText])"
    settled = "!document.querySelector('#answers.old')"
    return dict(wait(window, f"const found = {shown}; return {settled} && found.length === {count} && found"))


@pytest.fixture(scope="module")
def hostile(trained, tmp_path_factory):
    """The model behind HTTP, with a label name that would run if it were taken for HTML."""
    folder = bam.load(trained.id, store=trained.store).save_pretrained(tmp_path_factory.mktemp("model") / "hostile")
    manifest = json.loads((folder / "run.json").read_text())
    manifest["spec"]["tasks"]["rte"]["head"]["label_names"] = [HOSTILE, "no"]
    (folder / "run.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}))
    with serving(bam.load(folder)) as found:
        yield found


@pytest.mark.slow
@pytest.mark.xdist_group("page")  # they share a browser
def test_a_person_types_texts_and_sees_every_task_of_them(hostile, window):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    window.get(hostile.url)
    wait(window, "return document.getElementById('about').textContent.includes('3 tasks')")
    active = window.switch_to.active_element  # the first box has the keyboard
    active.send_keys("the cat sleeps", Keys.TAB, "a cat rests", Keys.TAB, Keys.ENTER)
    shown = cards(window, 2)
    said = hostile.model.predict([("the cat sleeps", "a cat rests")])
    assert list(shown) == ["stsb", "rte"]
    assert f"{said['stsb'][0].label:.3f}".rstrip("0")[:4] in shown["stsb"]
    for name, share in said["rte"][0].probabilities.items():
        assert name in shown["rte"]
        assert f"{100 * share:.1f} %" in shown["rte"]
    widths = "return [...document.querySelectorAll('#answers .fill')].map(one => parseFloat(one.style.width))"
    expected = [20 * said["stsb"][0].label, *(100 * share for share in said["rte"][0].probabilities.values())]
    assert window.execute_script(widths) == pytest.approx(expected, abs=1e-3)
    assert window.find_element(By.ID, "state").text == "2 tasks answered"
    assert window.find_elements(By.CSS_SELECTOR, "#answers img, #answers b") == []
    assert window.title == "Ask the model"

    second = window.find_element(By.ID, "second")
    second.clear()
    second.send_keys(Keys.CONTROL, Keys.ENTER)
    assert list(cards(window, 1)) == ["sst2"]
    assert window.get_log("browser") == []  # no script refused by the policy, nothing missing


@pytest.mark.slow
@pytest.mark.xdist_group("page")  # they share a browser
def test_faults_are_shown_and_go_away(hostile, window):
    from selenium.webdriver.common.by import By

    window.get(hostile.url)
    wait(window, "return document.getElementById('about').textContent.includes('3 tasks')")
    window.find_element(By.ID, "ask").click()
    wait(window, "return document.getElementById('fault').textContent === 'row 0: sentence is empty'")
    assert window.find_element(By.ID, "fault").get_attribute("role") == "alert"
    window.find_element(By.ID, "first").send_keys("<script>document.title = 1</script>")
    window.find_element(By.ID, "ask").click()
    assert list(cards(window, 1)) == ["sst2"]
    assert not window.find_element(By.ID, "fault").is_displayed()
    assert window.title == "Ask the model"


@pytest.mark.slow
@pytest.mark.xdist_group("page")  # they share a browser
def test_every_control_has_a_name_and_both_colour_schemes_are_readable(hostile, window):
    contrast = """
        const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(x => x / 255)
            .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ground = node => { for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (!/, 0\\)$|transparent/.test(colour)) return colour; } };
        return [...document.querySelectorAll('h1, p, label, label span, button, h2, dt, .share, .said, .ends span, a')]
            .filter(node => node.offsetParent && node.textContent).map(node => {
                const pair = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
                return [(pair[0] + 0.05) / (pair[1] + 0.05), node.className || node.tagName]; });"""
    grounds = set()
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        window.get(hostile.url)
        wait(window, "return document.getElementById('about').textContent.includes('3 tasks')")
        window.execute_script("first.value = 'a cat'; second.value = 'a dog'; ask()")
        cards(window, 2)
        ratios = window.execute_script(contrast)
        assert len(ratios) > 15
        assert min(ratio for ratio, _ in ratios) >= 4.5, sorted(ratios)[:3]  # WCAG 2.1, level AA
        grounds.add(window.execute_script("return getComputedStyle(document.body).backgroundColor"))
        names = "return [first, second].map(box => box.labels[0].firstChild.textContent.trim())"
        assert window.execute_script(names) == ["Text", "Second text"]
    assert len(grounds) == 2
