"""The ``bam`` command: its help, words passed to Hydra, and its start."""

import subprocess
import sys

import pytest

from bam_lightning import cli

COMMANDS = [
    "train",
    "check",
    "tables",
    "runs",
    "predict",
    "evaluate",
    "compare",
    "calibrate",
    "export",
    "serve",
    "submit",
    "tune",
    "grow",
    "relate",
    "dashboard",
]


def test_help_lists_the_commands(capsys):
    assert cli.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :] if line.startswith("  ")]
    assert listed == COMMANDS


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_each_command_has_help_with_examples(command, capsys):
    assert cli.run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: bam {command} ")
    assert f"\n    bam {command} " in text[text.index("Examples:") :]


def test_a_command_mistyped_is_one_line(capsys):
    assert cli.run(["predcit"]) == 2
    assert capsys.readouterr().err == "error: No such command 'predcit'. Did you mean 'predict'?; see `bam --help`\n"


@pytest.mark.parametrize(
    "words",
    [
        ["+experiment=single_multi", "seed=1", "-m"],
        ["-m", "seed=0,1", "hydra/launcher=joblib"],
        ["--multirun", "seed=0,1", "--help"],
        ["--help"],
        ["-cd", "conf", "--cfg", "job"],
        ["suite.only=[rte, stsb]", "--config-dir=x"],
    ],
)
def test_train_gets_its_words_unchanged(words, monkeypatch):
    seen = []
    monkeypatch.setattr("bam_lightning.train.main", lambda: seen.append(sys.argv))
    monkeypatch.setattr(sys, "argv", ["bam"])
    assert cli.run(["train", *words]) == 0
    assert seen == [["bam train", *words]]


def test_check_is_train_with_an_option(monkeypatch):
    seen = []
    monkeypatch.setattr("bam_lightning.train.main", lambda: seen.append(sys.argv))
    monkeypatch.setattr(sys, "argv", ["bam"])
    assert cli.run(["check", "scale=small", "seed=1"]) == 0
    assert seen == [["bam train", "scale=small", "seed=1", "check=true"]]


@pytest.mark.parametrize(
    ("command", "module", "words", "expected"),
    [
        ("submit", "submit", ["--run=a", "scale=small", "--run", "b", "--store=s", "x.y=[1, 2]"],
         ["scale=small", "x.y=[1, 2]", "paths.store=s"]),
        ("tune", "tuning", ["paths.store=s", "--value=1", "--value=0.5", "seed=3"], ["paths.store=s", "seed=3"]),
    ],
)  # fmt: skip
def test_words_of_train_go_beside_a_commands_own_options(command, module, words, expected, monkeypatch):
    seen = []
    monkeypatch.setattr(f"bam_lightning.recipes.{module}.job", lambda options, words: seen.append((options, words)))
    assert cli.run([command, *words]) == 0
    ((options, passed),) = seen
    assert passed == expected
    assert list(options.run if command == "submit" else options.values) == (
        ["a", "b"] if command == "submit" else [1.0, 0.5]
    )


def test_completion_is_there_for_a_shell():
    code = "import sys; from bam_lightning.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "--show-completion", "bash"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "_BAM_COMPLETE" in done.stdout


def test_help_imports_no_library_that_takes_long():
    code = (
        "import sys; from bam_lightning.cli import run; run(['predict', '--help'])\n"
        "assert not {'torch', 'transformers', 'datasets', 'hydra', 'pandas', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
