"""Which errors are on purpose: those that a `raise` of this library raised, and those of Hydra, OmegaConf and YAML."""

from __future__ import annotations

import pytest

from bam_lightning.config import options
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import format_error, is_user_error
from bam_lightning.config.validation import check_at_least
from bam_lightning.data.sampling import count_steps


def no_column(name: str) -> None:
    raise ValueError(f"no column '{name}'")


def caught(call) -> Exception:
    with pytest.raises(Exception) as found:
        call()
    return found.value


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: check_at_least("seed", -1, 0), True),
        (lambda: compose(["seed=x"]), True),
        (lambda: compose(["encoder=null"]), True),  # a bare ValueError of Hydra's
        (lambda: count_steps({"a": 1}, float("nan"), 1), False),  # math.ceil fails on a line of ours: ValueError
        (lambda: options.split(3, []), False),
        (lambda: check_at_least("seed", "x", 0), False),
        (lambda: int("x"), False),
    ],
)
def test_only_what_was_raised_is_on_purpose(call, expected):
    assert is_user_error(caught(call)) == expected


def test_an_error_that_nobody_raised_is_not_on_purpose():
    assert not is_user_error(ValueError("made, not raised"))


def test_what_cannot_be_printed_is_escaped():
    text = format_error(caught(lambda: no_column("a\nb \x1b[31m\u202ec é 中")))
    assert text == "no column 'a\\nb \\x1b[31m\\u202ec é 中'"


def test_an_error_of_ours_reads_as_it_is():
    assert format_error(caught(lambda: check_at_least("seed", -1, 0))) == "seed must be at least 0, got -1"
