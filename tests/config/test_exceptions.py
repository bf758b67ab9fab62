"""Which errors a user can cause, how they are printed, and that all others keep their traceback."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

import bam_lightning as bam
from bam_lightning import train
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError, DataError, ServingError, StorePathError
from bam_lightning.config.hydra_errors import config_errors, format_error, is_user_error
from bam_lightning.config.validation import check_at_least
from bam_lightning.data.sampling import count_steps


def catch(call) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (bam.ConfigError, ValueError),
        (bam.DataError, ValueError),
        (bam.StoreError, OSError),
        (bam.TrainingError, RuntimeError),
        (StorePathError, FileNotFoundError),
        (ServingError, RuntimeError),
    ],
)
def test_each_kind_is_a_bam_error_and_the_built_in_that_fits(kind, builtin):
    assert issubclass(kind, bam.BamError)
    assert issubclass(kind, builtin)
    assert str(kind("the message")) == "the message"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: check_at_least("seed", -1, 0), True),
        (lambda: compose(["seed=x"]), True),
        (lambda: compose(["encoder=null"]), True),  # Hydra raises a bare ValueError
        (lambda: pl.Trainer(accelerator="cpu", enable_progress_bar=False, callbacks=[TQDMProgressBar()]), True),
        (lambda: pl.Trainer(accelerator="cpu", max_steps="x"), False),
        (lambda: count_steps({"a": 1}, float("nan"), 1), False),
        (lambda: check_at_least("seed", "x", 0), False),
        (lambda: int("x"), False),
    ],
)
def test_only_errors_of_the_library_and_of_hydra_are_a_users(call, expected):
    assert is_user_error(catch(call)) == expected


def test_a_full_disk_is_one_sentence():
    error = OSError(errno.ENOSPC, "No space left on device", "out/metrics.csv")
    assert is_user_error(error)
    assert format_error(error) == (
        "cannot write out/metrics.csv: the disk is full; make room, and the same command goes on"
    )
    assert not is_user_error(OSError(errno.EBADF, "Bad file descriptor"))


@pytest.mark.parametrize("error", [ValueError("from a head"), TypeError("from a schedule"), AttributeError("no")])
def test_an_error_of_the_job_keeps_its_traceback(error, monkeypatch, tmp_path, capsys):
    def job(config):
        raise error

    monkeypatch.setattr(sys, "argv", ["train", f"hydra.run.dir={tmp_path}"])
    with pytest.raises(type(error)) as caught:
        train.run(job)
    assert caught.value is error
    assert "error: " not in capsys.readouterr().err


def test_an_error_of_the_job_that_a_user_caused_is_one_line(monkeypatch, tmp_path, capsys):
    def job(config):
        raise DataError("row 3: no label")

    monkeypatch.setattr(sys, "argv", ["train", f"hydra.run.dir={tmp_path}"])
    assert train.run(job) == 1
    assert capsys.readouterr().err == "error: row 3: no label\n"


def test_a_folder_of_the_search_path_that_is_missing_is_the_error(monkeypatch, tmp_path, capsys):
    words = ["hydra.searchpath=[file://my_cnf, pkg://json]", "scale=firma"]
    message = f"hydra.searchpath: no folder my_cnf (looked for {Path.cwd()}/my_cnf)"
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert str(caught.value) == message
    monkeypatch.setattr(sys, "argv", ["train", *words])
    assert train.run(lambda config: None) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    Path("my_cnf").mkdir()
    monkeypatch.setattr(sys, "argv", ["train", words[0].replace(", pkg://json", ""), words[1]])
    assert train.run(lambda config: None) == 1
    assert capsys.readouterr().err.endswith(
        "; files of your own need 'hydra.searchpath=[file://DIR]', as DIR/scale/NAME.yaml\n"
    )


def test_a_search_path_without_brackets_is_told_to_have_them():
    with pytest.raises(ConfigError) as caught:
        compose(["hydra.searchpath=file://my_conf"])
    assert str(caught.value) == (
        "hydra.searchpath must be a list of folders; write 'hydra.searchpath=[file://my_conf]'"
    )


def test_an_error_that_no_override_explains_keeps_its_type(tmp_path):
    with pytest.raises(AttributeError, match="a fault"), config_errors(["seed=3"], tmp_path):
        raise AttributeError("a fault")


def test_unprintable_characters_are_escaped():
    assert format_error(DataError("no column 'a\nb \x1b[31m\u202ec é 中'")) == (
        "no column 'a\\nb \\x1b[31m\\u202ec é 中'"
    )
