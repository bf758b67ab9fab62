"""Bad input of every kind, each with the whole of what is said: one line that names what, where and what to do.

The tables are the files ``bad_*.py`` beside this one. ``{tmp}`` stands for the test's folder, ``{store}`` and ``{run}``
for a student of three tiny tasks, ``{conf}`` for the package's YAML, ``LONG`` for a name longer than any file's."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

import bad_binary
import bad_commands
import bad_csv
import bad_encoders
import bad_files
import bad_labels
import bad_predict
import bad_words
import bad_yaml
from bam_lightning import cli
from bam_lightning.config.compose import compose, conf_dir, console
from bam_lightning.config.data_config import DataConfig, HeadConfig, TaskConfig
from bam_lightning.data.examples import load_examples
from bam_lightning.data.task import task_from_config
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.runner import load_data
from forked_python import python

LEAST = 240


def said(call, capsys) -> str:
    """Return the one line that a command ends with, as its console prints it."""
    capsys.readouterr()
    assert console(lambda: call() or 0) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], lines
    return lines[-1].removeprefix("error: ")


def test_the_tables_are_large_enough():
    assert len(TABLES) == len(set(TABLES)) >= LEAST


DATA = {**bad_csv.CASES, **bad_labels.CASES, **bad_binary.CASES}
COMMANDS = {**bad_predict.CASES, **bad_commands.CASES}
PROCESSES = {
    "a word mistyped": (["seeed=1"], "no option 'seeed'; did you mean 'seed'?"),
    "a split that is not there": (
        ["suite.tasks.rte.dev_split=dev"],
        "task 'rte': no split 'dev' in {tmp}/data/rte (looked for .csv, .tsv, .json, .jsonl, .parquet); files there: "
        "train.parquet, validation.parquet; name one with suite.tasks.rte.train_split=, .dev_split= or .test_split=",
    ),
    "a file for a store": (
        ["paths.store={tmp}/data/stsb/train.csv"],
        "paths.store: cannot write {tmp}/data/stsb/train.csv (File exists): a file lies where a folder should; "
        "give another folder",
    ),
}
TABLES = [
    *(f"word: {word}" for word in bad_words.WORDS),
    *(f"yaml: {name}" for name in bad_yaml.FILES),
    *(f"data: {name}" for name in DATA),
    *COMMANDS,
    *(f"encoder: {name}" for name in bad_encoders.CASES),
    *(f"train: {name}" for name in PROCESSES),
]


@pytest.mark.parametrize("words", bad_words.WORDS)
def test_a_word_that_cannot_be_meant_is_refused(words, tmp_path, capsys):
    assert said(lambda: compose(words.split()) and None, capsys) == bad_words.WORDS[words].format(tmp=tmp_path)


def own_task(folder, content: bytes) -> list[str]:
    """Write the file of a task, and of a suite that has no other; return the words that take them."""
    for group, file in (("task", content), ("suite", b"name: mine\ntasks: {}\n")):
        (folder / group).mkdir()
        (folder / group / "mine.yaml").write_bytes(file)
    return ["scale=small", f"hydra.searchpath=[file://{folder}]", "suite=mine", "+task@suite.tasks.mine=mine"]


@pytest.mark.parametrize("name", bad_yaml.FILES)
def test_a_task_file_that_cannot_be_meant_is_refused(name, tmp_path, capsys):
    change, expected = bad_yaml.FILES[name]
    text = change(bad_yaml.GOOD)
    words = own_task(tmp_path, text if isinstance(text, bytes) else text.encode())
    assert said(lambda: load_data(compose(words)) and None, capsys) == expected.format(tmp=tmp_path)


@pytest.mark.parametrize("name", DATA)
def test_a_data_file_that_cannot_be_learned_from_is_refused(name, tmp_path, capsys):
    file, content, fields, expected = DATA[name]
    (tmp_path / "validation.csv").write_text(bad_files.GOOD)
    bad_files.write(tmp_path / file, content)
    settings = {"text": ["a", "b"], "head": HeadConfig("bam_lightning.ClassificationHead", ["no", "yes"])}
    task = task_from_config("mine", TaskConfig(path=str(tmp_path), **{**settings, **fields}), DataConfig())
    assert said(lambda: load_examples("mine", task) and None, capsys) == expected.format(tmp=tmp_path).replace(
        "LONG", "a" * 300
    )


@pytest.fixture
def places(trained, tiny_bert, tmp_path):
    """What stands in the place of the placeholders."""
    return {"tmp": tmp_path, "store": trained.store, "run": trained.id, "bert": tiny_bert, "conf": conf_dir()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_line_that_cannot_be_meant_is_refused(name, places, capsys):
    command, words, prepare, expected = COMMANDS[name]
    if prepare:
        prepare(places["tmp"], places["store"], places["run"])
    status = cli.run([command, *(word.format(**places) for word in words)])
    message = capsys.readouterr().err
    assert status == (2 if message.endswith(f"; see `bam {command} --help`\n") else 1)  # 2: a wrong command line
    assert message == f"error: {expected.format(**places)}\n"


@pytest.mark.parametrize("name", bad_encoders.CASES)
def test_an_encoder_that_cannot_be_used_is_refused(name, places, capsys):
    from bam_lightning.models.encoder import check_vocabulary, from_path, load_tokenizer

    change, expected = bad_encoders.CASES[name]
    folder = places["tmp"] / "encoder"
    shutil.copytree(places["bert"], folder)
    path = change(folder) or folder

    def load():
        encoder, tokenizer = from_path(str(path), None, "pooler"), load_tokenizer(path)
        check_vocabulary(encoder, tokenizer, f"encoder {str(path)!r}")

    assert said(load, capsys) == expected.format(**places, hint=bad_encoders.HINT)


@pytest.mark.parametrize("name", PROCESSES)
def test_train_in_a_process_of_its_own_says_the_same_and_nothing_else(name, tiny_job, tmp_path):
    words, expected = PROCESSES[name]
    arguments = [*tiny_job, *(word.format(tmp=tmp_path) for word in words)]
    done = subprocess.run(
        [python(), "-m", "bam_lightning.train", *arguments],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, f"error: {expected.format(tmp=tmp_path)}\n")


def test_a_good_one_of_each_kind_is_not_refused(tmp_path, tiny_bert):
    """Else a table of messages might only show that everything is refused."""
    from bam_lightning.models.encoder import from_path

    words = own_task(tmp_path, bad_yaml.GOOD.replace("DATA", str(tmp_path)).encode())
    (tmp_path / "train.csv").write_text(bad_files.GOOD)
    (tmp_path / "validation.csv").write_text(bad_files.GOOD)
    config = compose([*words, f"encoder.path={tiny_bert}"])
    assert len(plan_runs(config, load_data(config)[2])) == 2
    from_path(str(tiny_bert), None, "pooler")
