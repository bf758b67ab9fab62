"""Every example of the documentation is run, page by page, in the order it stands, with a few steps a Run.

A fence with a title is a file. ``bash`` and ``python`` are run; ``sh`` is what needs a GPU, a hub, an account or files
that this machine does not have, and says so by a word in it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(TOP).as_posix() for path in (TOP / "docs").glob("*.md"))
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ELSEWHERE = ("make ", "scale=paper", "=DIR", "entity=", "logger=wandb", "wandb=", "push_to_hub", "pip install", "PORT")
FEW = "[sentiment,similarity,entailment,small_entailment]"

# `python` of the pages: training takes four steps a Run, and four tasks where the page does not choose them
SHORT = f"""#!/bin/bash
case "$*" in
  *bam_lightning.train*--help*) ;;
  *bam_lightning.train*suite.only*|*bam_lightning.train*+task@*) set -- "$@" +debug=short ;;
  *bam_lightning.train*) set -- "$@" +debug=short 'suite.only={FEW}' ;;
esac
exec {sys.executable} "$@"
"""


@pytest.fixture(scope="session")
def shell(tmp_path_factory):
    """The environment of the pages' commands."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "python").write_text(SHORT)
    (folder / "bam").write_text(f'#!/bin/bash\nexec {sys.executable} -m bam_lightning.cli "$@"\n')
    for command in ("python", "bam"):
        (folder / command).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "WANDB_MODE": "disabled"}


@pytest.fixture(scope="session")
def demo(shell, tmp_path_factory):
    """A folder in which `make demo` was called."""
    folder = tmp_path_factory.mktemp("demo")
    run(["bash", "-c", "python -m bam_lightning.train +experiment=single_multi"], shell, folder)
    return folder / "store"


def run(command, env, folder):
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, timeout=300, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def student(store):
    """Return the id of the student that was trained last."""
    runs = [path for path in store.glob("runs/*/run.json") if '"stage": "student"' in path.read_text()]
    return max(runs, key=lambda path: path.stat().st_mtime).parent.name


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_example_runs(page, shell, demo, tmp_path):
    shutil.copytree(TOP / "docs" / "example", tmp_path / "docs" / "example")
    shutil.copytree(demo, tmp_path / "store")
    python = []  # the blocks of a page are one session, in which names stay
    for language, title, text in FENCE.findall((TOP / page).read_text()):
        text = text.replace("RUN_ID", student(tmp_path / "store"))
        if title:
            path = tmp_path / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif language == "bash":
            run(["bash", "-euo", "pipefail", "-c", text], shell, tmp_path)
        elif language == "python":
            python.append(text)
            run([sys.executable, "-c", "\n".join(python)], shell, tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_says_what_it_needs(page):
    known = {"bash", "python", "sh", "yaml", "csv", "text"}
    for language, _, text in FENCE.findall((TOP / page).read_text()):
        assert language in known
        if language == "sh":
            for command in text.replace("\\\n", " ").strip().splitlines():
                assert any(word in command for word in ELSEWHERE), command


def test_all_pages_are_in_the_menu_and_link_to_what_is_there():
    menu = (TOP / "mkdocs.yml").read_text()
    for page in PAGES:
        assert f": {Path(page).name}\n" in menu
        for target in re.findall(r"\]\(([^)#:]+)\)", (TOP / page).read_text()):
            assert (TOP / "docs" / target).is_file(), f"{page}: {target}"
