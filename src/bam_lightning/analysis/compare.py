"""The numbers of a table: medians of the seeds with their spread, and the tests between rows (section 4)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bam_lightning.analysis.collect import AVERAGE, Row
from bam_lightning.analysis.table_config import PAPER_TASKS, TableConfig
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.metrics.significance import (
    Interval,
    Sample,
    cliffs_delta,
    difference_interval,
    holm,
    known_tests,
    median_interval,
    stars,
)


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
    """A row against another in one column: ``difference`` of medians in points, p before and after Holm.

    ``effect`` is what the test is about: the difference of means, or Cliff's ``delta``. ``adjusted`` belongs to the
    hypothesis the comparison is a part of: over all rows compared with, where the table tests them jointly.
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


@dataclass(frozen=True)
class Table:
    """A whole table: ``cells`` maps row -> column -> cell."""

    config: TableConfig
    rows: list[Row]
    columns: list[str]
    cells: Mapping[str, Mapping[str, Cell]] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def dropped(self) -> list[str]:
        """Tasks that some row has and that are no column, unless the table asks for its columns by name."""
        if self.config.columns:
            return []
        return sorted({task for row in self.rows for job in row.jobs for task in job.metrics} - set(self.columns))

    @property
    def untested(self) -> list[tuple[str, str]]:
        """Labels of the rows that were to be compared, and have Runs in common."""
        rows = {row.name: row for row in self.rows}
        pairs = [(rows[name], rows[other]) for name, others in self.config.against.items() for other in others]
        return [(row.label.strip(), other.label.strip()) for row, other in pairs if shared(row, other)]

    def papers(self, row: str) -> dict[str, float]:
        """Return the paper's numbers of a row; its average only beside an average of the same tasks."""
        theirs = dict(self.config.paper.get(row, {}))
        if not set(PAPER_TASKS) <= set(self.columns):
            theirs.pop(AVERAGE, None)
        return theirs

    @property
    def family(self) -> int:
        """How many hypotheses the p values are corrected for."""
        runs = {row.name: _runs(row) for row in self.rows}
        tested = [one for one in self.comparisons if not math.isnan(one.adjusted)]
        return len({(runs[one.row], one.column, "" if self.config.jointly else runs[one.against]) for one in tested})


def compare(table: TableConfig, rows: Sequence[Row]) -> Table:
    """Return the table of ``rows``.

    A mark in a cell says that the row is better than (or merely different from: ``marks``) every row it is tested
    against, at the level of its largest adjusted p value. The family of Holm's correction is all tests of the table.
    """
    columns = list(rows[0].scores)
    found = _comparisons(table, {row.name: row for row in rows}, columns)
    cells = {
        row.name: {column: _cell(row.values(column), _marks(table, row.name, column, found)) for column in columns}
        for row in rows
    }
    return Table(table, list(rows), columns, cells, found)


def _comparisons(table: TableConfig, rows: Mapping[str, Row], columns: Sequence[str]) -> list[Comparison]:
    hypotheses: list[tuple[str, str, tuple[str, ...]]] = []
    for name, others in table.against.items():
        sets = [tuple(others)] if table.jointly else [(other,) for other in others]
        hypotheses += [(name, column, against) for column in _tested(table, columns) for against in sets]
    test = known_tests(len(hypotheses))[table.test]
    single = {
        (name, column, other): math.nan  # no two samples
        if shared(rows[name], rows[other])
        else test.p(rows[name].values(column), rows[other].values(column))
        for name, column, against in hypotheses
        for other in against
    }
    largest = {}  # one entry a question: rows that are the same Runs are asked about once
    keys = [(_runs(rows[name]), column, tuple(_runs(rows[o]) for o in against)) for name, column, against in hypotheses]
    for key, (name, column, against) in zip(keys, hypotheses, strict=True):
        largest[key] = _largest([single[name, column, other] for other in against])
    adjusted = dict(zip(largest, holm(list(largest.values())), strict=True))
    return [
        _comparison(rows[name], rows[other], column, test.effect, single[name, column, other], adjusted[key])
        for key, (name, column, against) in zip(keys, hypotheses, strict=True)
        for other in against
    ]


def _tested(table: TableConfig, columns: Sequence[str]) -> list[str]:
    """Return the columns to test; where there is no average, as of a single task, that task."""
    if not table.tested:
        return list(columns)
    found = [column for column in columns if column in table.tested]
    if not found and len(columns) > 1:
        raise ConfigError(
            f"table {table.title!r}: tested names {', '.join(table.tested)}; columns: {', '.join(columns)}"
        )
    return found or list(columns)


def shared(row: Row, other: Row) -> bool:
    """Return whether two rows have Runs in common, so that there is nothing to test between them."""
    return bool(set(_runs(row)) & set(_runs(other)))


def _runs(row: Row) -> tuple[str, ...]:
    return tuple(sorted({run_id for job in row.jobs for run_id in job.last})) or (row.name,)


def _largest(p_values: Sequence[float]) -> float:
    """Return the p value of a claim over all: as sure as its least sure part, and NaN if one part has none."""
    return math.nan if any(map(math.isnan, p_values)) else max(p_values)


def _comparison(
    row: Row, other: Row, column: str, effect: Callable[[Sample, Sample], float], p: float, adjusted: float
) -> Comparison:
    ours, theirs = row.values(column), other.values(column)
    difference = statistics.median(ours) - statistics.median(theirs) if ours and theirs else math.nan
    interval = difference_interval(ours, theirs)
    return Comparison(
        row.name,
        other.name,
        column,
        difference,
        interval,
        cliffs_delta(ours, theirs),
        effect(ours, theirs),
        p,
        adjusted,
    )


def _marks(table: TableConfig, row: str, column: str, comparisons: Sequence[Comparison]) -> str:
    own = [one for one in comparisons if (one.row, one.column) == (row, column)]
    if not own or (table.marks == "better" and not all(one.difference > 0 and one.effect > 0 for one in own)):
        return ""
    return stars(_largest([one.adjusted for one in own]))


def _cell(values: Sequence[float], marks: str) -> Cell:
    if not values:
        nothing = math.nan
        return Cell(0, nothing, nothing, nothing, nothing, Interval(nothing, nothing))
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    return Cell(len(values), statistics.median(values), sd, min(values), max(values), median_interval(values), marks)
