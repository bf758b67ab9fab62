"""Checks of single values: the whole message, and the nearest name."""

from __future__ import annotations

import math

import pytest

from bam_lightning.config.validation import check_at_least, check_choice, check_positive, check_range, suggest


def message(check, *arguments, **options) -> str:
    """Return what ``check`` has to say against its arguments."""
    with pytest.raises(ValueError) as caught:
        check(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("sede", ["seed", "scale"], "; did you mean 'seed'?"),
        ("scael", ["seed", "scale"], "; did you mean 'scale'?"),
        ("xyz", ["seed", "scale"], ""),
        ("seed", [], ""),
    ],
)
def test_suggest_gives_the_nearest_name_or_nothing(name, known, expected):
    assert suggest(name, known) == expected


def test_suggest_takes_any_iterable():
    assert suggest("sst", iter({"sst2": 1, "rte": 2})) == "; did you mean 'sst2'?"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("mnil", ["rte", "mnli"], "suite.include names 'mnil'; choices: rte, mnli; did you mean 'mnli'?"),
        ("cola", ["rte", "mnli"], "suite.include names 'cola'; choices: rte, mnli"),
        ("rte", [], "suite.include names 'rte'; choices: none"),
    ],
)
def test_unknown_name_is_refused_with_all_choices(name, known, expected):
    assert message(check_choice, "suite.include", name, known) == expected


def test_known_name_lists_choices_of_an_iterator_it_has_searched():
    assert message(check_choice, "task", "zzz", iter(["rte", "mnli"])) == "task names 'zzz'; choices: rte, mnli"


def test_known_name_accepts_a_known_name():
    assert check_choice("suite.include", "rte", ["rte", "mnli"]) is None


@pytest.mark.parametrize("value", [8, 9])
def test_at_least_accepts_the_bound_and_more(value):
    assert check_at_least("data.max_length", value, 8) is None


def test_at_least_names_key_bound_and_value():
    assert message(check_at_least, "data.max_length", 7, 8) == "data.max_length must be at least 8, got 7"


@pytest.mark.parametrize("value", [1e-300, 1, 3.5])
def test_positive_accepts_numbers_above_zero(value):
    assert check_positive("epochs", value) is None


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (-1.5, "-1.5"), (math.inf, "inf"), (math.nan, "nan")])
def test_positive_refuses_what_is_not_above_zero_or_not_finite(value, shown):
    assert message(check_positive, "epochs", value) == f"epochs must be above 0, got {shown}"


@pytest.mark.parametrize(
    ("value", "open_ends", "span"),
    [
        (-0.1, {}, "[0, 1]"),
        (1.5, {}, "[0, 1]"),
        (math.nan, {}, "[0, 1]"),
        (0, {"open_low": True}, "(0, 1]"),
        (1, {"open_high": True}, "[0, 1)"),
        (0, {"open_low": True, "open_high": True}, "(0, 1)"),
        (1, {"open_low": True, "open_high": True}, "(0, 1)"),
    ],
)
def test_value_outside_its_range_is_refused_with_the_range(value, open_ends, span):
    assert message(check_range, "warmup", value, 0, 1, **open_ends) == f"warmup must be in {span}, got {value}"


@pytest.mark.parametrize(
    ("value", "open_ends"), [(0, {}), (1, {}), (0, {"open_high": True}), (1, {"open_low": True}), (0.5, {})]
)
def test_closed_ends_belong_to_the_range(value, open_ends):
    assert check_range("warmup", value, 0, 1, **open_ends) is None
