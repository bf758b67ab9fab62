"""Every example of README.md and docs/ is run, page by page, in the order it stands, with a few steps a Run.

A fence with a title is a file. ``bash`` and ``python`` are run; ``sh`` is what needs a GPU, a hub, an account or files
that this machine does not have, and says so by a word in it."""

import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

import forked_python
from conftest import sentences

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(TOP).as_posix() for path in (TOP / "docs").glob("*.md"))
RUN_PAGES = ["README.md", *PAGES]
EACH_COMMIT = ("README.md", "docs/index.md", "docs/lightning.md")  # the first read
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ELSEWHERE = ("make ", "scale=paper", "DIR", "--entity", "logger=wandb", "--wandb", "push_to_hub", "pip install", "PORT")

# `python` of the pages: training takes four steps a Run, and three tasks, or one beside the page's own, where the page
# does not choose them
SHORT = """#!/bin/bash
own=$(printf '%s\\n' "$@" | sed -n 's/^+task@suite\\.tasks\\.\\([a-z_]*\\)=.*/\\1,/p' | tr -d '\\n')
case "$*" in
  *bam_lightning.train*--help*) ;;
  *bam_lightning.train*suite.include*|*bam_lightning.train*scale=support*) set -- "$@" +debug=short ;;
  *bam_lightning.train*) set -- "$@" +debug=short "suite.include=[${own:-similarity,entailment,}sentiment]" ;;
esac
exec PYTHON "$@"
"""

# The Python blocks of a page are one session: a line of input is a block, and each that ran is answered with a line.
SESSION = """
import json, sys
answers, sys.stdout = sys.stdout, sys.stderr
names = {"__name__": "__main__"}
for line in sys.stdin:
    exec(json.loads(line), names)
    print("done", file=answers, flush=True)
"""


@pytest.fixture(scope="session")
def shell(tmp_path_factory):
    """The environment of the pages' commands."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "python").write_text(SHORT.replace("PYTHON", forked_python.python()))
    (folder / "bam").write_text(f'#!/bin/bash\nexec {forked_python.python()} -m bam_lightning.cli "$@"\n')
    for command in ("python", "bam"):
        (folder / command).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    warm = {"PYTHON_EXEC": forked_python.python(), "FORKED_PYTHON_CHILDREN": "yes"}  # torchrun's, and a server's
    return {**os.environ, "PATH": path, **warm, "WANDB_MODE": "disabled"}


@pytest.fixture(scope="session")
def demo(shell, tmp_path_factory):
    """A folder in which `make demo` was called."""
    folder = tmp_path_factory.mktemp("demo")
    run("python -m bam_lightning.train +experiment=single_multi", shell, folder)
    return folder / "store"


def run(text, env, folder):
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, timeout=300, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def write_local_data(folder):
    """Write the two data sets of README.md's first example, with random texts."""
    (folder / "rte").mkdir()
    for split, count in {"train": 64, "validation": 32}.items():
        rows = [
            {"sentence1": text, "sentence2": " ".join(reversed(text.split())), "label": len(text) % 2}
            for text in sentences(count, seed=count)
        ]
        (folder / "rte" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["review,stars", *(f"{text},{len(text) % 5 + 1}" for text in sentences(128, seed=1))]
    (folder / "reviews.csv").write_text("\n".join(lines) + "\n")


@contextmanager
def python_session(env, folder):
    """Yield a function that runs a block of code after those before it, in one process."""
    with (folder / "session.log").open("w") as log:
        process = subprocess.Popen(
            [forked_python.python(), "-c", SESSION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            text=True, env=env, cwd=folder,
        )  # fmt: skip

    def call(text):
        process.stdin.write(json.dumps(text) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n", f"{text}\n{(folder / 'session.log').read_text()[-4000:]}"

    with process:
        yield call


def student(store):
    """Return the id of the student that was trained last."""
    runs = [path for path in store.glob("runs/*/run.json") if '"stage": "student"' in path.read_text()]
    return max(runs, key=lambda path: path.stat().st_mtime).parent.name


@pytest.mark.slow
@pytest.mark.xdist_group("docs")  # they share a store
@pytest.mark.parametrize(
    "page", [page if page in EACH_COMMIT else pytest.param(page, marks=pytest.mark.release) for page in RUN_PAGES]
)
def test_every_example_runs(page, shell, demo, tiny_bert, tmp_path):
    shutil.copytree(TOP / "docs" / "example", tmp_path / "docs" / "example")
    shutil.copytree(demo, tmp_path / "store")
    write_local_data(tmp_path)
    shell = {**shell, "FORKED_PYTHON_REPORTS": "short"}
    with python_session(shell, tmp_path) as python:
        for language, title, text in FENCE.findall((TOP / page).read_text()):
            text = text.replace("RUN_ID", student(tmp_path / "store"))
            text = text.replace('"google-bert/bert-base-uncased"', f'"{tiny_bert}", max_length=64')
            text = text.replace('from_hub("nyu-mll/glue", "rte"', 'from_file("rte"')  # the hub is out of reach here
            if title:
                path = tmp_path / title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            elif language == "bash":
                run(text, shell, tmp_path)
            elif language == "python":
                python(text)


@pytest.mark.parametrize("page", RUN_PAGES)
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
    for page in RUN_PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", (TOP / page).read_text()):
            assert ((TOP / page).parent / target).exists(), f"{page}: {target}"
