"""Test statements about several rows: interactions, students above their teachers, spread, equivalence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bam_lightning.analysis.collect import Row
from bam_lightning.analysis.table_config import ClaimConfig
from bam_lightning.metrics.significance import (
    LEVEL,
    MIN_SEEDS,
    NO_INTERVAL,
    Interval,
    brown_forsythe,
    contrast_test,
    equivalence_test,
    holm,
    mean_difference,
    permutation_test,
    spread_ratio_interval,
)

HOLDS, OPPOSITE, UNDETERMINED = "holds", "the opposite holds", "undetermined"
RATIO_TEST = "Brown-Forsythe"  # its estimate is a ratio, not points
TOO_FEW = f"too few seeds (n < {MIN_SEEDS})"


@dataclass(frozen=True)
class Claim:
    """The result of a claim in one column.

    Attributes:
        n: Smallest number of seeds of a row.
        estimate: Difference of means in points; for ``spread`` the ratio of standard deviations, for ``collapse`` the
            difference of the shares of collapsed scores in percent.
        interval: 95 % interval of the estimate.
        p: p value, and ``adjusted`` after Holm's correction over the claims of the table.
        verdict: ``holds``, ``the opposite holds``, ``undetermined`` or why it cannot be tested.
    """

    text: str
    column: str
    n: int
    estimate: float
    interval: Interval
    test: str
    p: float
    adjusted: float = math.nan
    verdict: str = ""


def evaluate_claims(claims: Sequence[ClaimConfig], rows: Mapping[str, Row]) -> list[Claim]:
    """Return the results of all claims, with verdicts at the 5 % level after Holm's correction."""
    results: list[Claim] = []
    expected: list[float] = []  # the estimate that a claim says is not exceeded: 1 for ratios, else 0
    for config in claims:
        of_claim = EVALUATORS[config.kind](config, [rows[name] for name in config.rows])
        results += of_claim
        expected += [_sign(config, claim) for claim in of_claim]
    adjusted = holm([claim.p for claim in results])
    return [
        replace(claim, adjusted=p, verdict=_verdict(claim, p, sign))
        for claim, p, sign in zip(results, adjusted, expected, strict=True)
    ]


def _sign(config: ClaimConfig, claim: Claim) -> float:
    """Return a number above 0 if the estimate points the way the claim says."""
    if config.kind == "equivalence":
        return 1.0  # the p value itself is one-sided
    if config.kind == "collapse":
        return -claim.estimate  # the first row has fewer
    return 1 - claim.estimate if config.kind == "spread" else claim.estimate


def _verdict(claim: Claim, adjusted: float, sign: float) -> str:
    if claim.n < MIN_SEEDS:
        return TOO_FEW
    if math.isnan(adjusted):
        return "cannot be tested: no seed differs from any other"
    if adjusted >= LEVEL:
        return UNDETERMINED
    return HOLDS if sign > 0 else OPPOSITE


def _size(rows: Sequence[Row], column: str) -> int:
    return min(len(row.values(column)) for row in rows)


def _interaction(config: ClaimConfig, rows: Sequence[Row]) -> list[Claim]:
    """Test (a - b) - (c - d) > 0. Seeds are paired within the sum if all four rows share order and heads."""
    paired = all(rows[0].pairs_with(row) for row in rows[1:])
    samples = [row.values(config.column) for row in rows]
    estimate, p, interval = contrast_test(samples, (1, -1, -1, 1), paired)
    test = "sign-flip test of the interaction, paired by seed" if paired else "studentised bootstrap of the interaction"
    return [Claim(config.text, config.column, _size(rows, config.column), estimate, interval, test, p)]


def _surpasses_teacher(config: ClaimConfig, rows: Sequence[Row]) -> list[Claim]:
    """Test student - teacher > 0 for each task, over the seeds. Students may share one teacher."""
    (row,) = rows
    results = []
    for task, by_seed in row.teachers.items():
        if task not in row.scores:
            continue
        students = [row.scores[task][seed] for seed in by_seed]
        teachers = [score for _, score in by_seed.values()]
        count = len({run_id for run_id, _ in by_seed.values()})
        enough = len(students) >= MIN_SEEDS
        _, p, interval = contrast_test([students, teachers], (1, -1), paired=True)
        test = f"sign-flip test of student - teacher ({count} teacher{'s' if count > 1 else ''})"
        estimate = mean_difference(students, teachers)
        results.append(Claim(config.text, task, len(students), estimate, interval, test, p if enough else math.nan))
    return results or [Claim(config.text, config.column, 0, math.nan, NO_INTERVAL, "", math.nan)]


def _spread(config: ClaimConfig, rows: Sequence[Row]) -> list[Claim]:
    """Test whether the standard deviation of a's seeds is below that of b's."""
    first, second = (row.values(config.column) for row in rows)
    ratio = math.nan
    if len(first) > 1 and len(second) > 1 and statistics.stdev(second) > 0:
        ratio = statistics.stdev(first) / statistics.stdev(second)
    interval = spread_ratio_interval(first, second)
    p = brown_forsythe(first, second)
    return [Claim(config.text, config.column, _size(rows, config.column), ratio, interval, RATIO_TEST, p)]


def _equivalence(config: ClaimConfig, rows: Sequence[Row]) -> list[Claim]:
    """Test whether two means differ by less than the margin."""
    first, second = (row.values(config.column) for row in rows)
    paired = rows[0].pairs_with(rows[1])
    p = equivalence_test(first, second, config.margin, paired)
    test = f"two one-sided t tests, margin {config.margin:g}{', paired by seed' if paired else ''}"
    estimate, _, interval = contrast_test([first, second], (1, -1), paired)
    return [Claim(config.text, config.column, _size(rows, config.column), estimate, interval, test, p)]


def _above(config: ClaimConfig, rows: Sequence[Row]) -> list[Claim]:
    """Test a - b > 0; seeds are pairs if both rows share order and heads."""
    paired = rows[0].pairs_with(rows[1])
    estimate, p, interval = contrast_test([row.values(config.column) for row in rows], (1, -1), paired)
    test = "sign-flip test, paired by seed" if paired else "studentised bootstrap"
    return [Claim(config.text, config.column, _size(rows, config.column), estimate, interval, test, p)]


def _collapse(config: ClaimConfig, rows: Sequence[Row]) -> list[Claim]:
    """Test whether a smaller share of a's scores than of b's is at or below the floor of its task.

    A seed's tasks are not independent in a multi-task row, so the test is over the shares of the seeds.
    """
    floors = {task: floor for task, floor in config.floors.items() if all(task in row.scores for row in rows)}
    shares = []
    for row in rows:
        below = {
            task: {seed: score <= floor for seed, score in row.scores[task].items()} for task, floor in floors.items()
        }
        seeds = sorted(set.intersection(*map(set, below.values()))) if below else []
        shares.append([100 * statistics.fmean(below[task][seed] for task in floors) for seed in seeds])
    estimate, _, interval = contrast_test(shares, (1, -1), paired=False)
    p = permutation_test(shares[0], shares[1]) if min(map(len, shares)) >= MIN_SEEDS else math.nan
    counts = [f"{round(sum(share) * len(floors) / 100)} of {len(share) * len(floors)}" for share in shares]
    test = f"permutation test of the share of collapsed scores ({' against '.join(counts)})"
    return [Claim(config.text, ", ".join(floors), min(map(len, shares)), estimate, interval, test, p)]


EVALUATORS = {
    "above": _above,
    "collapse": _collapse,
    "interaction": _interaction,
    "surpasses_teacher": _surpasses_teacher,
    "spread": _spread,
    "equivalence": _equivalence,
}
