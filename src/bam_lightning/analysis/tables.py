"""Make tables from the finished jobs of a store: ``bam tables table1``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bam_lightning.analysis import formats
from bam_lightning.analysis.collect import TableFilter, collect
from bam_lightning.analysis.compare import Table, compare
from bam_lightning.analysis.html_report import page
from bam_lightning.analysis.table_config import load_table
from bam_lightning.analysis.terminal import show
from bam_lightning.config.compose import conf_dir
from bam_lightning.config.exceptions import StoreError
from bam_lightning.config.validation import check_at_least
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.job_records import damaged_records, read_records
from bam_lightning.store.run_store import Store


@dataclass(kw_only=True)
class TableOptions:
    """Options of ``bam tables``; see its ``--help``."""

    table: str
    store: str = "store"
    scale: str = "demo"
    fidelity: str = "paper"
    seeds: int | None = None
    settings: str | None = None
    mix: bool = False
    wandb: str | None = None
    output: str = "tables"


def make(options: TableOptions) -> Table:
    """Make the table and write its files.

    Raises:
        ConfigError: If the table is unknown.
        StoreError: If the store has none of its jobs, or the output cannot be written.
    """
    if options.seeds is not None:
        check_at_least("seeds", options.seeds, 1)
    config = load_table(options.table, conf_dir() / "table")
    store = Store(options.store, create=False)
    choice = TableFilter(options.scale, options.fidelity, options.seeds, options.settings, options.mix)
    table = compare(config, collect(config, read_records(store), store, choice))
    paper = options.scale == "paper"
    name, folder = Path(options.table).stem, Path(options.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"output: cannot write into {folder} ({error.strerror}); give another folder") from error
    for ending, text in {
        "html": page(table, store, paper),
        "md": formats.markdown(table, paper),
        "tex": formats.latex(table, paper),
        "csv": formats.cells_csv(table),
        "tests.csv": formats.tests_csv(table),
        "seeds.csv": formats.seeds_csv(table),
        **({"claims.csv": formats.claims_csv(table)} if table.claims else {}),
    }.items():
        write_text(folder / f"{name}.{ending}", text)
    return table


def job(options: TableOptions) -> None:
    """Make the table and print it."""
    table = make(options)
    for message in damaged_records(Store(options.store, create=False)).values():
        print(message, file=sys.stderr)
    show(table.config.title, formats.heading(table), formats.body(table, short=True, paper=options.scale == "paper"))
    for line in formats.legend(table, short=True):
        print(line)
    if table.claims:
        head, *lines = formats.claims(table, short=True)
        show("Claims", head, lines)
    if options.wandb:
        from bam_lightning.analysis.dashboard import send_table

        lines = formats.numbers(table)
        send_table(options.wandb, Path(options.output), Path(options.table).stem, lines[0], lines[1:])
    print(Path(options.output).resolve() / f"{Path(options.table).stem}.html")
