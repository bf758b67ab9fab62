"""The numbers of a table: medians over seeds with their spread, and the tests between rows (section 4)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bam_lightning.analysis.claims import TOO_FEW, Claim, evaluate_claims
from bam_lightning.analysis.collect import AVERAGE, Row
from bam_lightning.analysis.table_config import PAPER_TASKS, TableConfig
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.metrics.significance import (
    LEVEL,
    MIN_SEEDS,
    NO_INTERVAL,
    Interval,
    Test,
    cliffs_delta,
    difference_interval,
    holm,
    median_interval,
    paired_tests,
    stars,
    unpaired_tests,
)

MEAN_OF_MEDIANS = "mean of medians"


@dataclass(frozen=True)
class Cell:
    """Scores x 100 of the ``n`` seeds of a row in one column; ``sd`` is the sample's, NaN for one seed."""

    n: int
    median: float
    sd: float
    low: float
    high: float
    interval: Interval
    marks: str = ""


@dataclass(frozen=True)
class Comparison:
    """A row against another one in one column.

    Attributes:
        difference: Difference of medians in points, with its 95 % ``interval``.
        delta: Cliff's delta.
        effect: What the test is about: a difference of means or of ranks.
        p: p value of this pair.
        adjusted: p value of the hypothesis after Holm's correction. If the table tests jointly, the hypothesis is that
            the row differs from all rows it is tested against.
        test: Title of the test.
        paired: Whether the seeds of both rows are pairs.
        verdict: ``better``, ``worse``, ``different`` (median and effect disagree), ``undetermined``, or why the pair
            was not tested.
    """

    row: str
    against: str
    column: str
    difference: float
    interval: Interval
    delta: float
    effect: float
    p: float
    adjusted: float
    test: str
    paired: bool
    verdict: str


@dataclass(frozen=True)
class Table:
    """A table; ``cells`` maps row -> column -> cell."""

    config: TableConfig
    rows: list[Row]
    columns: list[str]
    cells: Mapping[str, Mapping[str, Cell]] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    @property
    def dropped(self) -> list[str]:
        """Tasks that some rows have and that are no column, unless the table names its columns."""
        if self.config.columns:
            return []
        return sorted({task for row in self.rows for job in row.jobs for task in job.metrics} - set(self.columns))

    @property
    def untested(self) -> list[tuple[str, str]]:
        """Labels of the pairs of rows that are not tested, since they have Runs in common."""
        rows = {row.name: row for row in self.rows}
        pairs = [(rows[name], rows[other]) for name, others in self.config.against.items() for other in others]
        return [(row.label.strip(), other.label.strip()) for row, other in pairs if share_runs(row, other)]

    def paper_scores(self, row: str) -> dict[str, float]:
        """Return the paper's numbers of a row; its average only if the table's average is over the same tasks."""
        scores = dict(self.config.paper.get(row, {}))
        if not set(PAPER_TASKS) <= set(self.columns):
            scores.pop(AVERAGE, None)
        return scores

    def mean_of_medians(self, row: str) -> float:
        """Return the mean over tasks of their medians, which the paper's average may be instead; NaN without seeds."""
        tasks = next(found.columns.get(AVERAGE, []) for found in self.rows if found.name == row)
        return statistics.fmean(self.cells[row][task].median for task in tasks) if tasks else math.nan

    @property
    def family(self) -> int:
        """Number of hypotheses that the p values are corrected for."""
        runs = {row.name: _runs(row) for row in self.rows}
        tested = [comparison for comparison in self.comparisons if not math.isnan(comparison.adjusted)]
        return len(
            {(runs[pair.row], pair.column, "" if self.config.jointly else runs[pair.against]) for pair in tested}
        )


def compare(table: TableConfig, rows: Sequence[Row]) -> Table:
    """Return the table of ``rows``.

    A mark says that the row is better than (or different from: ``marks``) all rows it is tested against, at the level
    of its largest adjusted p value. Holm's correction is over all tests of the table; claims have their own.
    """
    columns = list(rows[0].scores)
    by_name = {row.name: row for row in rows}
    comparisons = _comparisons(table, by_name, columns)
    cells = {
        row.name: {
            column: _cell(row.values(column), _marks(table, row.name, column, comparisons)) for column in columns
        }
        for row in rows
    }
    return Table(table, list(rows), columns, cells, comparisons, evaluate_claims(table.claims, by_name))


@dataclass(frozen=True)
class _Pair:
    """Two rows in one column, before correction."""

    row: Row
    other: Row
    column: str
    test: Test
    paired: bool
    p: float


def _comparisons(table: TableConfig, rows: Mapping[str, Row], columns: Sequence[str]) -> list[Comparison]:
    hypotheses: list[tuple[str, str, tuple[str, ...]]] = []
    for name, others in table.against.items():
        groups = [tuple(others)] if table.jointly else [(other,) for other in others]
        hypotheses += [(name, column, against) for column in _tested(table, columns) for against in groups]
    pairs = {
        (name, column, other): _test_pair(table, rows[name], rows[other], column, len(hypotheses))
        for name, column, against in hypotheses
        for other in against
    }
    # One entry per question: rows that are the same Runs are asked about once.
    keys = [(_runs(rows[name]), column, tuple(_runs(rows[o]) for o in against)) for name, column, against in hypotheses]
    largest = {}
    for key, (name, column, against) in zip(keys, hypotheses, strict=True):
        largest[key] = _largest([pairs[name, column, other].p for other in against])
    adjusted = dict(zip(largest, holm(list(largest.values())), strict=True))
    return [
        _comparison(pairs[name, column, other], adjusted[key])
        for key, (name, column, against) in zip(keys, hypotheses, strict=True)
        for other in against
    ]


def _tested(table: TableConfig, columns: Sequence[str]) -> list[str]:
    """Return the columns to test; if there is no average, as with a single task, that task."""
    if not table.tested:
        return list(columns)
    tested = [column for column in columns if column in table.tested]
    if not tested and len(columns) > 1:
        raise ConfigError(
            f"table {table.title!r}: tested names {', '.join(table.tested)}; columns: {', '.join(columns)}"
        )
    return tested or list(columns)


def _test_pair(table: TableConfig, row: Row, other: Row, column: str, family: int) -> _Pair:
    """Test two rows in one column; p is NaN if they share Runs or have fewer than ``MIN_SEEDS`` seeds."""
    paired = table.paired and row.pairs_with(other)
    test = (paired_tests(family) if paired else unpaired_tests(family))[table.test]
    first, second = row.values(column), other.values(column)
    testable = not share_runs(row, other) and min(len(first), len(second)) >= MIN_SEEDS
    return _Pair(row, other, column, test, paired, test.p(first, second) if testable else math.nan)


def share_runs(row: Row, other: Row) -> bool:
    """Return whether two rows have Runs in common, so that there is nothing to test between them."""
    return bool(set(_runs(row)) & set(_runs(other)))


def _runs(row: Row) -> tuple[str, ...]:
    return tuple(sorted({run_id for job in row.jobs for run_id in job.last})) or (row.name,)


def _largest(p_values: Sequence[float]) -> float:
    """Return the p value of a claim about several pairs: the largest, and NaN if one of them has none."""
    return math.nan if any(map(math.isnan, p_values)) else max(p_values)


def _comparison(pair: _Pair, adjusted: float) -> Comparison:
    first, second = pair.row.values(pair.column), pair.other.values(pair.column)
    difference = statistics.median(first) - statistics.median(second) if first and second else math.nan
    effect = pair.test.effect(first, second)
    return Comparison(
        row=pair.row.name,
        against=pair.other.name,
        column=pair.column,
        difference=difference,
        interval=difference_interval(first, second, pair.paired),
        delta=cliffs_delta(first, second),
        effect=effect,
        p=pair.p,
        adjusted=adjusted,
        test=pair.test.title,
        paired=pair.paired,
        verdict=_verdict(pair, min(len(first), len(second)), difference, effect, adjusted),
    )


def _verdict(pair: _Pair, n: int, difference: float, effect: float, adjusted: float) -> str:
    if share_runs(pair.row, pair.other):
        return "the same Runs"
    if n < MIN_SEEDS:
        return TOO_FEW
    if math.isnan(pair.p):
        return "cannot be tested: no seed differs"
    if math.isnan(adjusted) or adjusted >= LEVEL:
        return "undetermined"
    if difference > 0 and effect > 0:
        return "better"
    return "worse" if difference < 0 and effect < 0 else "different"


def _marks(table: TableConfig, row: str, column: str, comparisons: Sequence[Comparison]) -> str:
    of_cell = [pair for pair in comparisons if (pair.row, pair.column) == (row, column)]
    if not of_cell:
        return ""
    if table.marks == "better" and not all(pair.difference > 0 and pair.effect > 0 for pair in of_cell):
        return ""
    return stars(_largest([pair.adjusted for pair in of_cell]))


def _cell(values: Sequence[float], marks: str) -> Cell:
    if not values:
        return Cell(0, math.nan, math.nan, math.nan, math.nan, NO_INTERVAL)
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    return Cell(len(values), statistics.median(values), sd, min(values), max(values), median_interval(values), marks)
