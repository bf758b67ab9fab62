"""A table as text: Markdown, LaTeX (booktabs), CSV, and the rows that the terminal shows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from bam_lightning.analysis.compare import Cell, Table

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
    """Return a number for people; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def cell_text(cell: Cell, short: bool = False) -> str:
    """Return the median with its marks; unless ``short``, the standard deviation and the range too.

    >>> from bam_lightning.metrics.significance import Interval
    >>> cell_text(Cell(3, 70.44, 1.25, 69.0, 71.5, Interval(69.0, 71.5), "**"))
    '70.4** (sd 1.2; 69.0-71.5)'
    """
    if not cell.n:
        return ""
    spread = "" if short or cell.n < 2 else f" (sd {number(cell.sd)}; {number(cell.low)}-{number(cell.high)})"
    return f"{number(cell.median)}{cell.marks}{spread}"


def heading(table: Table) -> list[str]:
    """Return the title row."""
    return ["", "n", *table.columns]


def body(table: Table, short: bool = False, paper: bool = False) -> list[list[str]]:
    """Return the rows; under each that the paper has too, its numbers, where ``paper`` asks for them."""
    lines = []
    for row in table.rows:
        cells = table.cells[row.name]
        lines.append([row.label, str(len(row.jobs)), *(cell_text(cells[column], short) for column in table.columns)])
        theirs = table.papers(row.name)
        if paper and theirs:
            lines.append(["  (the paper)", "", *(number(theirs.get(column, math.nan)) for column in table.columns)])
    return lines


def legend(table: Table, short: bool = False) -> list[str]:
    """Return what the reader must know: what is shown, how it was tested, what is missing."""
    spread = "and their number n" if short else "with n, standard deviation and range"
    lines = [f"Dev scores x 100: median of the seeds, {spread}."]
    if table.comparisons:
        rows, better = {row.name: row.label.strip() for row in table.rows}, table.config.marks == "better"
        claims = [
            f"{rows[row]} {'than' if better else 'from'} {_all(rows[o] for o in others)}"
            for row, others in table.config.against.items()
        ]
        test = {"bootstrap": "studentised bootstrap of the means", "mann_whitney": "Mann-Whitney U"}[table.config.test]
        lines.append(
            f"*, **, ***: {table.config.marks} at p < .05, .01, .001 ({'; '.join(claims)}), {test}, two-sided, "
            f"Holm-Bonferroni over the {table.family} tests of this table."
        )
    lines += [f"{row} and {other} have Runs in common, and are not tested." for row, other in table.untested]
    if table.dropped:
        lines.append(f"Left out, as not every row has it: {', '.join(table.dropped)}.")
    if table.config.note:
        lines.append(table.config.note)
    return lines + [f"{row.label.strip()}: {note}." for row in table.rows for note in row.notes]


def _all(names: Iterable[str]) -> str:
    return " and ".join(names)


def comparisons(table: Table) -> list[list[str]]:
    """Return title row and rows of the tests: difference of medians with its interval, effect size, p values."""
    names = {row.name: row.label.strip() for row in table.rows}
    lines = [["row", "against", "column", "difference (95 %)", "Cliff's delta", "p", "p (Holm)"]]
    for one in table.comparisons:
        spread = "" if math.isnan(one.interval.low) else f" ({one.interval.low:+.1f} to {one.interval.high:+.1f})"
        difference = "" if math.isnan(one.difference) else f"{one.difference:+.1f}{spread}"
        values = [difference, number(one.delta, 2), number(one.p, 4), number(one.adjusted, 4)]
        lines.append([names[one.row], names[one.against], one.column, *values])
    return lines


def markdown(table: Table, paper: bool = False) -> str:
    """Return the table in Markdown."""
    lines = [heading(table), ["---", "--:", *["--:"] * len(table.columns)], *body(table, paper=paper)]
    rows = ["| " + " | ".join(map(_markdown, line)) + " |" for line in lines]
    notes = [_markdown(line) for line in legend(table)]
    return "\n".join([f"## {table.config.title}", "", *rows, "", *(f"- {line}" for line in notes), ""])


def _markdown(text: str) -> str:
    for sign in "*_|":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("<", "&lt;")


def latex(table: Table, paper: bool = False) -> str:
    """Return the table in LaTeX, for ``\\usepackage{booktabs}``."""
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{lr{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [" & ".join(map(tex, heading(table))) + r" \\", r"\midrule"]
    for line in body(table, short=True, paper=paper):
        lines.append(" & ".join(_tex_marks(cell) for cell in line) + r" \\")
    caption = tex(f"{table.config.title}. {' '.join(legend(table, short=True))}")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}", ""])


def tex(text: str) -> str:
    """Return text with LaTeX's own signs escaped.

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
    """Return a title row, and one line per row and column: n, median, spread, 95 % interval of the median."""
    lines: list[list[Any]] = [
        ["row", "column", "n", "median", "sd", "min", "max", "median_low95", "median_high95", "marks"]
    ]
    for row in table.rows:
        for column in table.columns:
            cell = table.cells[row.name][column]
            values = (cell.median, cell.sd, cell.low, cell.high, *cell.interval)
            lines.append([row.name, column, cell.n, *(number(value, 4) for value in values), cell.marks])
    return lines


def cells_csv(table: Table) -> str:
    """Return ``numbers`` as CSV."""
    return _csv(numbers(table))


def tests_csv(table: Table) -> str:
    """Return one line per comparison: difference of medians with its interval, Cliff's delta, p, p after Holm."""
    lines: list[Sequence[Any]] = [
        ("row", "against", "column", "difference", "low95", "high95", "cliffs_delta", "test", "effect", "p", "p_holm")
    ]
    for one in table.comparisons:
        effect = [number(value, 4) for value in (one.difference, *one.interval, one.delta)]
        p_values = [number(value, 6) for value in (one.p, one.adjusted)]
        tested = (table.config.test, number(one.effect, 4))
        lines.append((one.row, one.against, one.column, *effect, *tested, *p_values))
    return _csv(lines)


def seeds_csv(table: Table) -> str:
    """Return one line per row, seed and column: the score x 100."""
    lines: list[Sequence[Any]] = [("row", "seed", "column", "score")]
    for row in table.rows:
        for column in table.columns:
            lines += [(row.name, seed, column, number(score, 4)) for seed, score in row.by_seed(column)]
    return _csv(lines)


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
