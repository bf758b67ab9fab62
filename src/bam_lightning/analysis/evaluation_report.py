"""The report of ``bam evaluate`` as Markdown and as one HTML page, and its reliability diagram."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bam_lightning.analysis.html_report import COLOURS, document, figure_of, html_table, svg
from bam_lightning.analysis.terminal import show
from bam_lightning.config.escaping import markdown, markdown_rows, plot_label
from bam_lightning.store.atomic_io import write_text

Report = Mapping[str, Any]
Section = tuple[str, list[str], list[list[str]]]  # title, heading, rows
SHOWN_GROUPS = 20  # groups of rows, the largest, there
SHOWN_WORST = 5  # worst rows in the terminal and in Markdown; the page and the JSON have all
WIDTH = 120  # characters of a row's texts there
WIDEST_MATRIX, SHOWN_CONFUSIONS = 8, 10  # labels of a confusion matrix that a terminal shows; pairs in its place


def save(report: Report, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(folder / "report.md", format_markdown(report) + "\n")
    write_text(folder / "report.html", format_html(report))


def format_markdown(report: Report) -> str:
    """Return a report as Markdown: metrics, classes, confusion matrix, worst rows and groups, one table each."""
    parts = [f"# {report['task']}: Run {report['run']}", *map(markdown, _notes(report))]
    for title, heading, rows in _short_sections(report):
        parts += [f"## {markdown(title)}"] if title else []
        parts.append(markdown_table(heading, rows))
    return "\n\n".join(parts)


def print_report(report: Report) -> None:
    """Print a report on standard output."""
    print(f"{report['task']}: Run {report['run']}", *_notes(report), sep="\n")
    for title, heading, rows in _short_sections(report):
        if title == "Confusion matrix" and len(rows) > WIDEST_MATRIX:
            title, heading, rows = "Most frequent confusions", ["gold", "predicted", "rows"], _confusions(report)
        show(title, heading, rows)


def _confusions(report: Report) -> list[list[str]]:
    """Return gold, predicted and the number of rows of the most frequent wrong answers."""
    labels, counts = report["confusion_matrix"]["labels"], report["confusion_matrix"]["counts"]
    pairs = [(gold, predicted) for gold in range(len(labels)) for predicted in range(len(labels)) if gold != predicted]
    pairs.sort(key=lambda pair: -counts[pair[0]][pair[1]])
    return [
        [labels[gold], labels[predicted], f"{counts[gold][predicted]:,}"]
        for gold, predicted in pairs[:SHOWN_CONFUSIONS]
        if counts[gold][predicted]
    ]


def _short_sections(report: Report) -> list[Section]:
    """Return the tables of a report with a few worst rows, the largest groups and the beginnings of texts."""
    by = f"By {report['by']['column']}" if "by" in report else None
    found = []
    for title, heading, rows in sections(report, WIDTH):
        if title == "Worst rows" and len(rows) > SHOWN_WORST:
            title, rows = f"The worst {SHOWN_WORST} of {len(rows)} rows", rows[:SHOWN_WORST]
        if title == by and len(rows) > SHOWN_GROUPS:
            title = f"{by}, the largest {SHOWN_GROUPS} of {len(rows):,} groups"
            rows = sorted(rows, key=lambda row: -int(row[1].replace(",", "")))[:SHOWN_GROUPS]
        found.append((title, heading, [[_cut(cell, WIDTH) for cell in row] for row in rows]))
    return found


def format_html(report: Report) -> str:
    """Return a report as a page that needs nothing from elsewhere."""
    title = f"{report['task']}: Run {report['run']}"
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in _notes(report))]
    for name, heading, rows in sections(report):
        parts += [f"<h2>{escape(name)}</h2>"] if name else []
        parts.append(html_table(heading, rows, texts=("gold", "predicted", "texts") if name == "Worst rows" else ()))
        if name == "Calibration":
            parts.append(reliability_plot(report))
        if name == "Confusion matrix":
            parts.append(confusion_plot(report))
    return document(title, parts)


def _notes(report: Report) -> list[str]:
    notes = [f"{report['rows']:,} rows: {report['input']}. Intervals are 95 % bootstrap intervals over the rows."]
    if "answered" in report:
        answered = report["answered"]
        notes.append(
            f"{answered['rows']:,} rows ({100 * answered['share']:.1f} %) are answered; the others abstain. "
            "The other tables count all rows, each with its likeliest label."
        )
    if "f1" in report["metrics"] and len(report.get("per_class", ())) == 2:
        notes.append(f"f1 is that of {list(report['per_class'])[1]!r}, the second label.")
    if "mean_absolute_error" in report:
        notes.append(f"Mean absolute error: {report['mean_absolute_error']:.4g}.")
    if "reliability" in report:
        error, temperature = report["expected_calibration_error"], report["temperature"]
        notes.append(f"Expected calibration error: {error:.4f}, at temperature {temperature:.3f}.")
    return notes


def sections(report: Report, width: int | None = None) -> list[Section]:
    """Return the tables of a report, those that it has; ``width`` bounds the characters of a row's texts."""
    found: list[Section] = [("", ["metric", "score", "interval"], _metric_rows(report["metrics"]))]
    if "metrics" in report.get("answered", {}):
        found.append(("Answered rows", ["metric", "score", "interval"], _metric_rows(report["answered"]["metrics"])))
    if "per_class" in report:
        rows = [
            [name, *(f"{values[key]:.4f}" for key in ("precision", "recall", "f1")), f"{values['support']:,}"]
            for name, values in report["per_class"].items()
        ]
        found.append(("Classes", ["label", "precision", "recall", "F1", "rows"], rows))
    if "confusion_matrix" in report:
        labels, counts = report["confusion_matrix"]["labels"], report["confusion_matrix"]["counts"]
        rows = [[name, *(f"{count:,}" for count in row)] for name, row in zip(labels, counts, strict=True)]
        found.append(("Confusion matrix", ["gold / predicted", *labels], rows))
    if "reliability" in report:
        rows = [
            [
                f"{bar['low']:.2f} to {bar['high']:.2f}",
                f"{bar['confidence']:.4f}",
                f"{bar['accuracy']:.4f}",
                f"{bar['rows']:,}",
            ]
            for bar in report["reliability"]
        ]
        found.append(("Calibration", ["confidence", "mean confidence", "accuracy", "decisions"], rows))
    if report["worst_rows"]:
        measures = [name for name in ("probability", "loss", "error") if name in report["worst_rows"][0]]
        found.append(("Worst rows", ["row", "gold", "predicted", *measures, "texts"], _worst(report, measures, width)))
    if "by" in report:
        metrics = list(report["metrics"])
        rows = [
            [value, f"{group['rows']:,}", *(cell for row in _metric_rows(group["metrics"]) for cell in row[1:])]
            for value, group in report["by"]["groups"].items()
        ]
        heading = [report["by"]["column"], "rows", *(cell for name in metrics for cell in (name, "interval"))]
        found.append((f"By {report['by']['column']}", heading, rows))
    return found


def _metric_rows(metrics: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    return [
        [name, f"{values['value']:.4f}", f"{values['low']:.4f} to {values['high']:.4f}"]
        for name, values in metrics.items()
    ]


def _worst(report: Report, measures: Sequence[str], width: int | None) -> list[list[str]]:
    return [
        [
            str(row["row"]),
            row["gold"],
            row["predicted"],
            *("" if row[name] is None else f"{row[name]:.4f}" for name in measures),
            _joined(row["texts"], width),
        ]
        for row in report["worst_rows"]
    ]


def _joined(texts: Sequence[str], width: int | None) -> str:
    """Return the texts of a row, each cut to its part of ``width`` characters."""
    part = None if width is None else max(1, (width + 3) // len(texts) - 3)  # 3: what stands between two
    return " | ".join(_cut(text, part) for text in texts)


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain texts as Markdown."""
    return "\n".join(markdown_rows([heading, ["---"] * len(heading), *rows]))


def reliability_plot(report: Report) -> str:
    """Return an SVG: accuracy over confidence, with the share of decisions in each bin (a reliability diagram)."""
    figure, axes = figure_of(1, 1, 4.6, 4.2)
    axis, bars = axes[0, 0], report["reliability"]
    total = sum(bar["rows"] for bar in bars)
    for bar in bars:
        width = bar["high"] - bar["low"]
        axis.bar(bar["low"], bar["accuracy"], width, align="edge", color=COLOURS[0], alpha=0.85, edgecolor="white")
        axis.bar(bar["low"] + width / 2, bar["rows"] / total, width / 4, color=COLOURS[1])
    axis.plot([0, 1], [0, 1], "k--", linewidth=1)
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy (orange: share of decisions)")
    axis.set_title(f"expected calibration error {report['expected_calibration_error']:.3f}", fontsize=10)
    return svg(figure)


def confusion_plot(report: Report) -> str:
    """Return an SVG of the confusion matrix, coloured by the share of each gold label's rows."""
    labels, counts = report["confusion_matrix"]["labels"], report["confusion_matrix"]["counts"]
    size = 1.8 + 0.5 * len(labels)
    figure, axes = figure_of(1, 1, size + 1.2, size)
    axis = axes[0, 0]
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [plot_label(label) for label in labels]
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set(xlabel="predicted", ylabel="gold")
    if len(labels) <= 12:
        for gold, row in enumerate(counts):
            for predicted, count in enumerate(row):
                colour = "white" if shares[gold][predicted] > 0.5 else "black"
                axis.text(predicted, gold, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    return svg(figure)
