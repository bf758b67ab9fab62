"""Every script of examples/ runs, and prints what it says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from forked_python import python

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = {
    "own_trainer.py": ["'val/average'", "Prediction(label="],
    "own_head.py": ["TwoLayerHead [Prediction(label="],
    "outside_teacher.py": ["'val/good/accuracy'"],
    "lora.py": ["trained ", "Prediction(label="],
    "lightning_cli.py": ["'val/average'"],
}


def run(script: str, encoder: Path, folder: Path, *launcher: str) -> str:
    """Run a script as ``python script ENCODER`` does, behind the words of a launcher; return what it prints."""
    words = [str(encoder)]
    if script == "lightning_cli.py":
        words = ["fit", f"--data.encoder={encoder}", "--model.learning_rate=1e-3", "--trainer.max_epochs=1"]
    code = (
        f"import runpy, sys\nsys.argv = {[script, *words]}\nsys.path.insert(0, {str(EXAMPLES)!r})\n"
        f"runpy.run_path({str(EXAMPLES / script)!r}, run_name='__main__')"
    )
    settings = {"TMPDIR": str(folder), "PYTHONWARNINGS": "ignore", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*launcher, python(), "-c", code],
        capture_output=True, text=True, cwd=folder, env={**os.environ, **settings}, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script, tiny_bert, tmp_path):
    printed = run(script, tiny_bert, tmp_path)
    for words in SCRIPTS[script]:
        assert words in printed


@pytest.mark.slow
def test_two_processes_train_one_model(tiny_bert, tmp_path):
    torchrun = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    assert run("two_processes.py", tiny_bert, tmp_path, *torchrun).count("'val/average'") == 1


def test_every_script_is_listed_and_run():
    listed = (EXAMPLES / "README.md").read_text()
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - {"reviews.py"}
    assert scripts == {*SCRIPTS, "two_processes.py"}
    assert all(f"[{name}]({name})" in listed for name in scripts)
