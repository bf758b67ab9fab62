"""The command line as a subprocess, from another directory."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from forked_python import python


def call(*arguments: str, executable: str = "", **more) -> subprocess.CompletedProcess:
    """Run ``python -m bam_lightning.train`` with the arguments."""
    command = [executable or python(), "-m", "bam_lightning.train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


@pytest.mark.whole_report
def test_the_main_job_from_another_directory(tiny_job, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["+experiment=single_multi", *tiny_job, "logger=csv", "hydra.run.dir=out"]
    done = call(*words, executable=sys.executable, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(elsewhere / "out")
    assert {path.name for path in (elsewhere / "out").iterdir()} >= {"results.json", "results.png", "csv"}
    curves = sorted((elsewhere / "out" / "csv").glob("*/metrics.csv"))
    assert len(curves) == 3
    assert "train/lam" in curves[-1].read_text().splitlines()[0]


@pytest.mark.parametrize("question", ["--help", "--cfg"])
def test_questions_are_answered_without_torch(question):
    arguments = [question, "job"] if question == "--cfg" else [question]
    code = (
        "import sys; sys.argv = ['train', *sys.argv[1:]]\n"
        "from bam_lightning import train\n"
        "try: train.main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'wandb', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "layerwise_decay" in done.stdout
    lines = done.stdout.splitlines()
    assert question != "--help" or (len(lines) <= 45 and max(map(len, lines)) <= 120)  # one screen
    if question == "--help":
        assert "python -m bam_lightning.train -m 'seed=range(20)'" in done.stdout


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seeed=1", "error: no option 'seeed'; did you mean 'seed'?"),
        ("++fo=1", "error: no option 'fo'"),
        ("optimization.warmup=2", "error: optimization.warmup must be in [0, 1), got 2.0"),
    ],
)
def test_a_bad_command_line_is_one_message(override, expected):
    done = call(override)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == expected
    assert "Traceback" not in done.stderr


def test_a_bad_file_is_one_message_before_any_training(tiny_job, tiny_data):
    (tiny_data / "rte" / "validation.parquet").unlink()
    done = call(*tiny_job)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: task 'rte': no split 'validation' in {tiny_data}/rte (looked for .csv, .tsv, .json, .jsonl, "
        ".parquet); files there: train.parquet; name one with suite.tasks.rte.train_split=, .dev_split= or .test_split="
    )


@pytest.mark.release
def test_an_unreachable_hub_is_said_within_seconds(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    done = call("scale=small", executable=sys.executable)
    assert time.monotonic() - begun < 40  # five seconds for the answer, and what imports take on a busy machine
    assert done.returncode == 1
    assert "to use local files give data.root=DIR" in done.stderr.splitlines()[-1]


def test_a_users_own_task_is_one_file_outside_the_repo(tiny_job, tmp_path):
    (tmp_path / "mine").mkdir()
    rows = [f"text number {n},{'yes' if n % 2 else 'no'}" for n in range(24)]
    (tmp_path / "mine" / "train_subset.csv").write_text("\n".join(["words,answer", *rows]))
    (tmp_path / "mine" / "dev.csv").write_text("\n".join(["words,answer", *rows[:8]]))
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "my_task.yaml").write_text(
        "defaults: [schema, /head: classification, _self_]\n"
        f"path: {tmp_path}/mine\ntext: [words]\nlabel: answer\ndev_split: dev.csv\n"
        "head: {label_names: ['no', 'yes']}\nmetric: f1\n"
    )
    done = call(
        *tiny_job,
        "recipe=multi",
        f"hydra.searchpath=[file://{tmp_path}/conf]",
        "+task@suite.tasks.mine=my_task",
        "suite.tasks.mine.train_split=train_subset",
        "suite.include=[mine,rte]",
        f"hydra.run.dir={tmp_path}/out",
    )
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout


def test_a_task_file_that_is_no_yaml_is_one_message(tiny_job, tmp_path):
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "mine.yaml").write_text("path: data\nmetric:accuracy\ntext: [a]\n")
    done = call(*tiny_job, f"hydra.searchpath=[file://{tmp_path}/conf]", "+task@suite.tasks.mine=mine")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: not YAML: ")
    assert f'in "{tmp_path}/conf/task/mine.yaml", line 3' in done.stderr.splitlines()[-1]
