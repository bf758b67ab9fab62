"""A table as text: Markdown, LaTeX (booktabs), CSV, and the rows that the terminal shows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bam_lightning.analysis.claims import RATIO_TEST, TOO_FEW
from bam_lightning.analysis.collect import AVERAGE
from bam_lightning.analysis.compare import MEAN_OF_MEDIANS, Cell, Table
from bam_lightning.config import escaping
from bam_lightning.metrics.significance import MIN_SEEDS, Interval

TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "->": r"$\rightarrow$",
}


def number(value: float, digits: int = 1) -> str:
    """Return a number as text; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def cell_text(cell: Cell, short: bool = False) -> str:
    """Return the median with its marks; unless ``short``, the standard deviation and the range too.

    >>> cell_text(Cell(3, 70.44, 1.25, 69.0, 71.5, Interval(69.0, 71.5), "**"))
    '70.4** (sd 1.2; 69.0 to 71.5)'
    """
    if not cell.n:
        return ""
    spread = "" if short or cell.n < 2 else f" (sd {number(cell.sd)}; {number(cell.low)} to {number(cell.high)})"
    return f"{number(cell.median)}{cell.marks}{spread}"


def heading(table: Table) -> list[str]:
    """Return the title row; next to the median of the average stands the mean of the tasks' medians."""
    columns = list(table.columns)
    if AVERAGE in columns:
        columns.insert(columns.index(AVERAGE) + 1, MEAN_OF_MEDIANS)
    return ["", "n", *columns]


def body(table: Table, short: bool = False, paper: bool = False) -> list[list[str]]:
    """Return the rows; with ``paper``, the paper's numbers are under each row that has them."""
    lines = []
    columns = heading(table)[2:]
    for row in table.rows:
        cells = table.cells[row.name]
        texts = [
            number(table.mean_of_medians(row.name)) if column == MEAN_OF_MEDIANS else cell_text(cells[column], short)
            for column in columns
        ]
        lines.append([row.label, str(len(row.jobs)), *texts])
        scores = table.paper_scores(row.name)
        if paper and scores:
            lines.append(["  (the paper)", "", *(number(scores.get(column, math.nan)) for column in columns)])
    return lines


def legend(table: Table, short: bool = False) -> list[str]:
    """Return the notes under a table: what is shown, how it was tested, what is missing."""
    spread = "and their number n" if short else "with n, standard deviation and range"
    lines = [f"Dev scores x 100: median over the seeds, {spread}."]
    if table.comparisons:
        rows, better = {row.name: row.label.strip() for row in table.rows}, table.config.marks == "better"
        claims = [
            f"{rows[row]} {'than' if better else 'from'} {' and '.join(rows[other] for other in others)}"
            for row, others in table.config.against.items()
        ]
        lines.append(
            f"*, **, ***: {table.config.marks} at p < .05, .01, .001 ({'; '.join(claims)}), two-sided, "
            f"Holm-Bonferroni over the {table.family} tests of this table."
        )
        lines += _tests_used(table, rows)
        lines += _undetermined(table, rows)
    lines += [f"{row} and {other} have Runs in common, and are not tested." for row, other in table.untested]
    if table.dropped:
        lines.append(f"Left out, as not every row has it: {', '.join(table.dropped)}.")
    if table.config.note:
        lines.append(table.config.note)
    return lines + [f"{row.label.strip()}: {note}." for row in table.rows for note in row.notes]


def _tests_used(table: Table, labels: Mapping[str, str]) -> list[str]:
    """Return one line per test, with the pairs of rows it was used for."""
    pairs: dict[str, list[str]] = {}
    for pair in table.comparisons:
        if math.isnan(pair.p):
            continue
        how = "paired by seed, since both rows share order and heads" if pair.paired else "unpaired"
        title = f"{pair.test} ({how})"
        names = f"{labels[pair.row]} against {labels[pair.against]}"
        if names not in pairs.setdefault(title, []):
            pairs[title].append(names)
    return [f"Test: {title}: {'; '.join(names)}." for title, names in pairs.items()]


def _undetermined(table: Table, labels: Mapping[str, str]) -> list[str]:
    """Return a line about the pairs without a verdict: too few seeds, or a difference that they cannot show."""
    few = {pair.row for pair in table.comparisons if pair.verdict == TOO_FEW}
    few |= {pair.against for pair in table.comparisons if pair.verdict == TOO_FEW}
    few = {name for name in few if 0 < table.cells[name][table.columns[0]].n < MIN_SEEDS}
    lines = []
    if few:
        names = ", ".join(labels[row.name] for row in table.rows if row.name in few)
        lines.append(f"No interval and no test with fewer than {MIN_SEEDS} seeds: {names}.")
    open_pairs = [pair for pair in table.comparisons if pair.verdict == "undetermined"]
    if open_pairs and len(open_pairs) <= 8:
        texts = [
            f"{labels[pair.row]} against {labels[pair.against]}, {pair.column}: "
            f"{pair.difference:+.1f} points{interval_text(pair.interval)}"
            for pair in open_pairs
        ]
        lines.append(f"Undetermined with these seeds: {'; '.join(texts)}.")
    elif open_pairs:
        lines.append(f"{len(open_pairs)} of {len(table.comparisons)} comparisons are undetermined with these seeds.")
    return lines


def interval_text(interval: Interval, digits: int = 1, signed: bool = True) -> str:
    """Return a 95 % interval in brackets, with a leading blank; empty for NaN.

    >>> interval_text(Interval(-0.25, 1.5))
    ' (-0.2 to +1.5)'
    """
    if math.isnan(interval.low):
        return ""
    sign = "+" if signed else ""
    return f" ({interval.low:{sign}.{digits}f} to {interval.high:{sign}.{digits}f})"


def comparisons(table: Table) -> list[list[str]]:
    """Return the title row and the rows of the tests: difference of medians with interval, effect size, p, verdict."""
    names = {row.name: row.label.strip() for row in table.rows}
    lines = [["row", "against", "column", "difference (95 %)", "Cliff's delta", "test", "p", "p (Holm)", "verdict"]]
    for pair in table.comparisons:
        difference = "" if math.isnan(pair.difference) else f"{pair.difference:+.1f}{interval_text(pair.interval)}"
        test = f"{pair.test}, {'paired' if pair.paired else 'unpaired'}"
        values = [difference, number(pair.delta, 2), test, number(pair.p, 4), number(pair.adjusted, 4), pair.verdict]
        lines.append([names[pair.row], names[pair.against], pair.column, *values])
    return lines


def claims(table: Table, short: bool = False) -> list[list[str]]:
    """Return the title row and the rows of the claims: estimate with interval, test (unless ``short``), p, verdict."""
    test = [] if short else ["test"]
    lines = [["claim", "column", "n", "estimate (95 %)", *test, "p", "p (Holm)", "verdict"]]
    for claim in table.claims:
        ratio = claim.test == RATIO_TEST
        value = number(claim.estimate, 2) if ratio or math.isnan(claim.estimate) else f"{claim.estimate:+.1f}"
        estimate = value + interval_text(claim.interval, 2 if ratio else 1, signed=not ratio)
        p_values = [number(claim.p, 4), number(claim.adjusted, 4)]
        test = [] if short else [claim.test]
        lines.append([claim.text, claim.column, str(claim.n), estimate, *test, *p_values, claim.verdict])
    return lines


def markdown(table: Table, paper: bool = False) -> str:
    """Return the table in Markdown."""
    head = heading(table)
    rows = escaping.markdown_rows([head, ["---", *["--:"] * (len(head) - 1)], *body(table, paper=paper)])
    notes = [f"- {escaping.markdown(line)}" for line in legend(table)]
    parts = [f"## {escaping.markdown(table.config.title)}", "", *rows, "", *notes, ""]
    if table.claims:
        head, *lines = claims(table)
        parts += ["### Claims", "", *escaping.markdown_rows([head, ["---"] * len(head), *lines]), ""]
    return "\n".join(parts)


def latex(table: Table, paper: bool = False) -> str:
    """Return the table in LaTeX, for ``\\usepackage{booktabs}``."""
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{lr{'r' * (len(heading(table)) - 2)}}}", r"\toprule"]
    lines += [" & ".join(map(tex, heading(table))) + r" \\", r"\midrule"]
    for line in body(table, short=True, paper=paper):
        lines.append(" & ".join(_tex_marks(cell) for cell in line) + r" \\")
    caption = tex(f"{table.config.title}. {' '.join(legend(table, short=True))}")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}", ""])


def tex(text: str) -> str:
    """Return text with LaTeX's special characters escaped.

    >>> tex("a_b & 5 %")
    'a\\\\_b \\\\& 5 \\\\%'
    """
    arrow = text.split("->")
    return TEX["->"].join("".join(TEX.get(sign, sign) for sign in part) for part in arrow)


def _tex_marks(cell: str) -> str:
    bare = cell.rstrip("*")
    marks = len(cell) - len(bare)
    return tex(bare) + (f"$^{{{'*' * marks}}}$" if marks else "")


def numbers(table: Table) -> list[list[Any]]:
    """Return a title row and one line per row and column: n, median, spread, 95 % interval of the median."""
    lines: list[list[Any]] = [
        ["row", "column", "n", "median", "sd", "min", "max", "median_low95", "median_high95", "marks"]
    ]
    for row in table.rows:
        for column in table.columns:
            cell = table.cells[row.name][column]
            values = (cell.median, cell.sd, cell.low, cell.high, *cell.interval)
            lines.append([row.name, column, cell.n, *(number(value, 4) for value in values), cell.marks])
            if column == AVERAGE:
                mean = number(table.mean_of_medians(row.name), 4)
                lines.append([row.name, MEAN_OF_MEDIANS, cell.n, mean, "", "", "", "", "", ""])
    return lines


def cells_csv(table: Table) -> str:
    """Return ``numbers`` as CSV."""
    return _csv(numbers(table))


def tests_csv(table: Table) -> str:
    """Return one line per comparison: difference of medians with its interval, Cliff's delta, p, p after Holm."""
    names = "row against column difference low95 high95 cliffs_delta test paired effect p p_holm verdict"
    lines: list[Sequence[Any]] = [names.split()]
    for pair in table.comparisons:
        effect = [number(value, 4) for value in (pair.difference, *pair.interval, pair.delta)]
        p_values = [number(value, 6) for value in (pair.p, pair.adjusted)]
        tested = (pair.test, str(pair.paired).lower(), number(pair.effect, 4))
        lines.append((pair.row, pair.against, pair.column, *effect, *tested, *p_values, pair.verdict))
    return _csv(lines)


def claims_csv(table: Table) -> str:
    """Return one line per claim and column: estimate with its interval, test, p, p after Holm, verdict."""
    lines: list[Sequence[Any]] = ["claim column n estimate low95 high95 test p p_holm verdict".split()]
    for claim in table.claims:
        estimate = [number(value, 4) for value in (claim.estimate, *claim.interval)]
        p_values = [number(value, 6) for value in (claim.p, claim.adjusted)]
        lines.append((claim.text, claim.column, claim.n, *estimate, claim.test, *p_values, claim.verdict))
    return _csv(lines)


def seeds_csv(table: Table) -> str:
    """Return one line per row, seed and column: the score x 100."""
    lines: list[Sequence[Any]] = [("row", "seed", "column", "score")]
    for row in table.rows:
        for column in table.columns:
            lines += [(row.name, seed, column, number(score, 4)) for seed, score in row.by_seed(column)]
    return _csv(lines)


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([escaping.csv_cell(str(cell)) for cell in line] for line in lines)
    return text.getvalue()
