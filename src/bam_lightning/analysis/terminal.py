"""Terminal output of a recipe: the plan, two progress bars (recipe and Run), the table of scores."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Bar
from rich.table import Table
from rich.text import Text

from bam_lightning.config.escaping import printable
from bam_lightning.store.run_spec import Run

PACKAGE = Path(__file__).resolve().parents[1]
LOGGERS = ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero")


class Speed(ProgressColumn):
    """Examples per second of a bar."""

    def render(self, task: Bar) -> Text:
        """Return the speed, once there is one."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} examples/s" if speed else "", style="cyan")


class View:
    """Terminal output. Progress bars are drawn on a terminal only; elsewhere each finished Run prints one line."""

    def __init__(self, bars: bool) -> None:
        self.console = Console(file=sys.stderr, highlight=False, markup=False)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            Speed(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (bars and self.console.is_terminal),
        )
        self.total: TaskID | None = None
        self.current: TaskID | None = None
        self.run: Run | None = None

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(printable(text), soft_wrap=True)

    @contextmanager
    def messages(self) -> Iterator[None]:
        """Print what this package logs by way of Lightning in the meantime; of Lightning's own messages, errors."""
        loggers = [logging.getLogger(name) for name in LOGGERS]
        before = [(one.handlers, one.propagate, one.level) for one in loggers]
        for logger in loggers:
            logger.handlers, logger.propagate = [_Messages(self)], False
            logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)

    def plan(self, runs: Sequence[Run], finished: Collection[str], begun: Collection[str]) -> None:
        """Print the planned Runs: stage, tasks, examples, optimizer steps, and whether the store has them."""
        table = Table(title="Plan", title_justify="left")
        for title, justify in (
            ("Run", "left"),
            ("stage", "left"),
            ("tasks", "left"),
            ("seed", "right"),
            ("examples", "right"),
            ("steps", "right"),
            ("state", "left"),
        ):
            table.add_column(title, justify=justify, no_wrap=title in ("Run", "state"))  # type: ignore[arg-type]
        for run in runs:
            state = "in the store" if run.id in finished else "goes on" if run.id in begun else "to train"
            tasks = ", ".join(run.tasks) or "(text)"
            table.add_row(run.id, run.stage, tasks, str(run.seed), f"{run.examples:,}", f"{run.steps:,}", state)
        self.console.print(table)
        missing = [run for run in runs if run.id not in finished]
        self.say(
            f"{len(runs)} Runs, {len(runs) - len(missing)} of them in the store; to train: "
            f"{sum(run.examples for run in missing):,} examples in {sum(run.steps for run in missing):,} steps"
        )

    def start(self, runs: Sequence[Run]) -> None:
        """Open the recipe's bar over the Runs to train."""
        if runs:
            self.total = self.bars.add_task("recipe", total=sum(run.examples for run in runs))
            self.current = self.bars.add_task("", total=None, visible=False)
            self.bars.start()

    def begin(self, run: Run) -> None:
        """Open the bar of one Run."""
        self.run = run
        if self.current is not None:
            self.bars.reset(self.current, total=run.examples, description=run.label, visible=True)

    def step(self, step: int) -> None:
        """Move both bars to ``step`` of the current Run."""
        if self.run is None or self.current is None or self.total is None:
            return
        done = step * self.run.batch_size
        before = self.bars.tasks[self.current].completed
        self.bars.update(self.current, completed=done)
        self.bars.advance(self.total, done - before)

    def done(self, run: Run, manifest: dict[str, Any]) -> None:
        """Print that a Run is finished, with its scores."""
        scores = ", ".join(
            f"{task} {100 * next(iter(values.values())):.1f}" for task, values in manifest["metrics"].items()
        )
        self.say(
            f"{run.label} ({run.id}): {manifest['train_seconds']:.1f} s, "
            f"{manifest['examples_per_second']:,.0f} examples/s{'; ' + scores if scores else ''}"
        )
        self.run = None

    def close(self) -> None:
        """Close the bars."""
        self.bars.stop()
        for bar in (self.total, self.current):
            if bar is not None:
                self.bars.update(bar, visible=False)


class _Messages(logging.Handler):
    """Prints records of this package, and errors, above the bars: each text once, however many Runs it is true of."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view, self.said = view, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.said and (record.levelno >= logging.ERROR or PACKAGE in Path(record.pathname).parents):
            self.said.add(text)
            self.view.say(text)


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], sums: int = 0) -> None:
    """Print a table on standard output; a line separates the last ``sums`` rows."""
    table = Table(title=Text(printable(title)), title_justify="left")
    for number, name in enumerate(head):
        left = number == 0 or not any(row[number].lstrip("+-")[:1].isdigit() for row in rows)
        table.add_column(Text(printable(name)), justify="left" if left else "right", no_wrap=number == 0)
    for number, row in enumerate(rows):
        table.add_row(*(Text(printable(cell)) for cell in row), end_section=number == len(rows) - 1 - sums)
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else 160  # do not wrap in a file or a pipe
    console.print(table)
