"""The final table of a job: dev rows, and how sure the difference between student and teacher is over them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import binomtest

from bam_lightning.config.compose import compose
from bam_lightning.recipes.predictions import describe_difference
from bam_lightning.recipes.runner import run_recipe

GOLD = np.zeros(56)


def wrong(*rows: int) -> np.ndarray:
    """Return predictions that are wrong in these rows of 56."""
    values = GOLD.copy()
    values[list(rows)] = 1
    return values


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (wrong(3), GOLD, "+1 of 56 rows: within noise"),
        (wrong(*range(5)), wrong(7), "+4 of 56 rows: within noise"),
        (wrong(1), wrong(1), "+0 of 56 rows: within noise"),
        (wrong(*range(6)), GOLD, f"+6 of 56 rows: p = {binomtest(6, 6).pvalue:.2g}"),
        (GOLD, wrong(*range(6)), f"-6 of 56 rows: p = {binomtest(6, 6).pvalue:.2g}"),
    ],
)
def test_accuracies_are_compared_by_the_rows_that_changed(teacher, student, expected):
    assert describe_difference("accuracy", teacher, student, GOLD) == expected


@pytest.mark.whole_report
def test_other_metrics_have_a_paired_bootstrap_over_rows():
    rng = np.random.default_rng(0)
    gold = rng.random(200)
    good, bad = gold + 0.05 * rng.random(200), gold + rng.random(200)
    assert re.fullmatch(r"\+\d+\.\d to \+\d+\.\d: p < \.05", describe_difference("spearman", bad, good, gold))
    other = gold + 0.05 * rng.random(200)
    assert describe_difference("spearman", good, other, gold).endswith(": within noise")


def test_a_job_table_has_dev_rows_and_the_difference_over_them(tiny_job, tmp_path, capsys):
    results = run_recipe(compose(tiny_job), tmp_path / "out")
    said = capsys.readouterr().out
    (head,) = [line for line in said.splitlines() if "majority" in line]
    assert [cell.strip() for cell in re.split("[┃│]", head)][1:-1] == [
        "task", "metric", "dev rows", "majority", "teacher (single)", "student", "difference", "over the dev rows",
    ]  # fmt: skip
    (line,) = [line for line in said.splitlines() if line.startswith("│ rte ")]
    cells = [cell.strip() for cell in line.split("│")][1:-1]
    teacher = next(run for run in results["runs"] if run["stage"] == "single" and run["tasks"] == ["rte"])
    gain = results["runs"][-1]["metrics"]["rte"]["accuracy"] - teacher["metrics"]["rte"]["accuracy"]
    assert cells[2] == "24"
    assert cells[-1].startswith(f"{round(24 * gain):+d} of 24 rows: ")
