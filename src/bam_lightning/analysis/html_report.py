"""A table as one HTML page with its plots inside: readable in any browser, without network."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from bam_lightning.analysis import formats
from bam_lightning.analysis.compare import Cell, Table
from bam_lightning.config.escaping import plot_label
from bam_lightning.store.run_store import Store

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 112rem; padding: 0 1rem; color: #1c2430 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e3e7ee }
th:first-child, td:first-child { text-align: left; white-space: pre }
td.text:first-child { white-space: pre-wrap; min-width: 9rem }
thead th { border-bottom: 2px solid #1c2430; white-space: normal; vertical-align: bottom; min-width: 4.5rem }
tbody tr:hover { background: #f3f6fb }
small { color: #5b6675 } code { background: #f3f6fb; padding: 0 .25rem }
th.text, td.text { text-align: left } td.text { white-space: pre-wrap }
td.text:last-child { overflow-wrap: anywhere; min-width: 10rem }
svg { max-width: 100%; height: auto; margin-top: 1rem }
details { margin: 1rem 0 } summary { cursor: pointer; font-weight: 600 }
"""
TEXTS = ("claim", "row", "against", "column", "test", "verdict")  # columns of the tests and claims that are not numbers
COLOURS = ("#4c6f9f", "#c2703d", "#5b8f5b", "#a4506a", "#7a6bb0", "#8c7a3f", "#4f9296", "#555555")


def page(table: Table, store: Store, paper: bool = False) -> str:
    """Return the page: scores, a point per seed, tests, claims, curves of one seed, and provenance."""
    parts = [
        f"<h1>{escape(table.config.title)}</h1>",
        html_table(formats.heading(table), formats.body(table, paper=paper), breaks=True),
        "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in formats.legend(table)) + "</ul>",
        "<h2>Seeds</h2>",
        f"<p><small>Points are seeds, the bar is their median, the thin line its 95 % interval (from six seeds on)."
        f"</small></p>{seeds_plot(table)}",
    ]
    if table.comparisons:
        first, *lines = formats.comparisons(table)
        parts.append(
            f"<details{' open' if len(lines) < 16 else ''}><summary>Tests between rows ({len(lines)})</summary>"
        )
        parts.append(html_table(first, lines, texts=TEXTS) + "</details>")
    if table.claims:
        first, *lines = formats.claims(table)
        parts.append(f"<h2>Claims</h2>{html_table(first, lines, texts=TEXTS)}")
    note = "The first seed of each row; if it has one Run per task, their mean loss."
    parts += ["<h2>Training curves</h2>", f"<p><small>{note}</small></p>", curves_plot(table, store)]
    parts.append(_provenance(table, store))
    return document(table.config.title, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """Return a page of HTML parts, with its style inside."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    head += f"<style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def html_table(
    heading: Sequence[str], lines: Sequence[Sequence[str]], breaks: bool = False, texts: Sequence[str] = ()
) -> str:
    """Return a table of plain texts; with ``breaks`` what is in brackets stands below, in small print.

    Columns are numbers, at the right, but for the first. Those in ``texts`` are at the left, and wrapped.
    """

    def cell(text: str) -> str:
        main, _, rest = text.partition(" (")
        return f"{escape(main)}<br><small>{escape(rest.rstrip(')'))}</small>" if breaks and rest else escape(text)

    kinds = [' class="text"' if name in texts else "" for name in heading]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(heading, kinds, strict=True))
    rows = ""
    for first, *rest in lines:
        cells = "".join(f"<td{kind}>{cell(text)}</td>" for text, kind in zip(rest, kinds[1:], strict=True))
        rows += f"<tr><td{kinds[0]}>{escape(first)}</td>{cells}</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def figure_of(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its axes ``[rows, columns]``; sizes are those of one panel, in inches."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def svg(figure: Any) -> str:
    """Return a figure as an SVG element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def seeds_plot(table: Table) -> str:
    """Return an SVG with a panel per column: the seeds of each row as points, with median and interval."""
    across = min(3, len(table.columns))
    down = -(-len(table.columns) // across)
    figure, axes = figure_of(down, across, 5.0, 0.7 + 0.32 * len(table.rows))
    names = [plot_label(row.label.strip()) for row in table.rows]
    for panel, axis in enumerate(axes.flat):
        if panel >= len(table.columns):
            axis.set_axis_off()
            continue
        column = table.columns[panel]
        for line, row in enumerate(table.rows):
            _points(axis, line, row.values(column), table.cells[row.name][column])
        axis.set_title(column, fontsize=10)
        axis.set_yticks(range(len(names)), names if panel % across == 0 else [""] * len(names), fontsize=8)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.grid(axis="x", alpha=0.3)
        axis.tick_params(axis="x", labelsize=8)
    return svg(figure)


def _points(axis: Any, line: int, values: Sequence[float], cell: Cell) -> None:
    if not values:
        return
    colour = COLOURS[line % len(COLOURS)]
    heights = [line + 0.24 * ((number * 0.618) % 1 - 0.5) for number in range(len(values))]  # deterministic jitter
    axis.scatter(values, heights, s=14, alpha=0.6, color=colour, linewidths=0)
    axis.plot([cell.median, cell.median], [line - 0.3, line + 0.3], color=colour, linewidth=2.5)
    if not math.isnan(cell.interval.low):
        axis.plot(list(cell.interval), [line, line], color=colour, linewidth=1)


def curves_plot(table: Table, store: Store) -> str:
    """Return an SVG with training loss and lam over progress, for the first seed of each row.

    If a row has one Run per task, their mean loss is drawn. Rows without teachers have no lam.
    """
    figure, axes = figure_of(1, 2, 7.0, 3.4)
    losses, lams = axes[0]
    progress = np.linspace(0, 1, 101)
    for line, row in enumerate(table.rows):
        colour, curves = COLOURS[line % len(COLOURS)], []
        for run_id in min(row.jobs, key=lambda job: job.seed).last if row.jobs else []:
            history = json.loads((store.folder(run_id) / "history.json").read_text())
            at = [entry["progress"] for entry in history]
            curves.append(np.interp(progress, at, [entry["loss"] for entry in history]))
            if store.manifest(run_id)["teachers"] and len(curves) == 1:
                lams.plot(at, [entry["lam"] for entry in history], color=colour, linewidth=1)
        if curves:
            losses.plot(
                progress, np.mean(curves, axis=0), color=colour, label=plot_label(row.label.strip()), linewidth=1
            )
    for axis, name in ((losses, "training loss per example"), (lams, "lam (weight of gold)")):
        axis.set_xlabel("progress")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    losses.legend(fontsize=7)
    lams.set_ylim(-0.03, 1.03)
    return svg(figure)


def _provenance(table: Table, store: Store) -> str:
    lines = []
    for row in table.rows:
        for job in sorted(row.jobs, key=lambda job: job.seed):
            manifest = store.manifest(job.last[0])
            versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
            lines.append([row.label, str(job.seed), str(job.teacher_seed if job.teacher_seed is not None else ""),
                          " ".join(job.last), manifest["finished"], f"{manifest['device']}; {versions}"])  # fmt: skip
    heading = ["row", "seed", "teacher seed", "Runs scored", "finished", "machine"]
    where = f"<p><small>Store: <code>{escape(str(store.root))}</code></small></p>"
    table_of_runs = html_table(heading, lines, texts=("Runs scored", "finished", "machine"))
    return f"<details><summary>Provenance</summary>{where}{table_of_runs}</details>"
