"""Rows of any kind of table, read a part at a time: CSV, TSV, JSON lines, Parquet, standard input.

A row that cannot be read is handed on with the reason, so that it can be named and does not stop the rest."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bam_lightning.config.exceptions import DataError, DataPathError
from bam_lightning.config.validation import check_choice

FORMATS = ("csv", "tsv", "jsonl", "parquet")
STREAM = "-"
CHUNK_ROWS = 4_096
LONGEST_FIELD = 1 << 20  # characters; a quote that is never closed must not swallow a whole file


class Record(NamedTuple):
    """One row: its columns, why it could not be read (or ``None``), and how far into the source it lies (bytes)."""

    values: dict[str, Any]
    fault: str | None
    place: int


def format_of(key: str, name: str, given: str | None) -> str:
    """Return the format of a file by its ending, or the one that is ``given``.

    Raises:
        DataError: for an unknown one, or a stream without one.
    """
    found = given or ("" if name == STREAM else Path(name).suffix.removeprefix("."))
    if given is not None:
        check_choice(f"{key}_format", given, FORMATS)
    if found not in FORMATS:
        raise DataError(f"{key}: {name!r} has none of the endings {', '.join(FORMATS)}; give {key}_format, one of them")
    if found == "parquet" and name == STREAM:
        raise DataError(f"{key}: Parquet cannot be streamed; give a file, or {key}_format=jsonl")
    return found


class Source:
    """The rows of a file, or of standard input, of which no more than a part is held at a time.

    Attributes:
        columns: names in the header of CSV and TSV or in Parquet's schema, known once the first row was asked for;
            those of JSON lines stand in each row.
    """

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.columns: list[str] = []

    def __iter__(self) -> Iterator[Record]:
        """Yield the rows.

        Raises:
            DataError: if there is no such file, or it is no table at all.
        """
        if self.kind == "parquet":
            yield from _parquet(Path(self.name).expanduser(), self.columns)
            return
        source = sys.stdin.buffer if self.name == STREAM else Path(self.name).expanduser().open("rb")
        with source:
            counted = _Counted(_lines(source, self.name))
            yield from _jsonl(counted) if self.kind == "jsonl" else _csv(counted, self.name, self.kind, self.columns)


def _lines(source: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(source):
        if not number and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{name} is UTF-16 text, not UTF-8; save it as UTF-8")
        yield line.decode("utf-8" if number else "utf-8-sig", "surrogateescape")


class _Counted:
    """Lines, and how many bytes of them have been read."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.place = lines, 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.place += len(line) if line.isascii() else len(line.encode("utf-8", "surrogateescape"))
        return line


def _csv(lines: _Counted, name: str, kind: str, columns: list[str]) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_FIELD)
    rows = csv.reader(lines, **dialect(kind))
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise DataError(f"{name} is not {kind.upper()}: {error}") from error
    if not header:
        raise DataError(f"{name} is empty; its first line must name the columns")
    if len(set(header)) < len(header):
        raise DataError(f"{name} has two columns of one name: {', '.join(header)}; rename one")
    columns += header
    while True:
        fault = None
        try:
            row = next(rows, None)
        except csv.Error as error:
            row, fault = [], f"not {kind.upper()}: {error}"
        if row is None:
            return
        if fault is None and not row:
            continue  # an empty line
        if fault is None and len(row) != len(header):
            fault = f"{len(row)} fields, the header has {len(header)}"
        fields = [*row, *[None] * len(header)][: len(header)]
        yield Record(dict(zip(header, fields, strict=True)), fault, lines.place)


def dialect(kind: str) -> dict[str, Any]:
    """Return the options of the csv module; TSV is unquoted, as GLUE's files are."""
    return {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if kind == "tsv" else {"strict": True}


def _jsonl(lines: _Counted) -> Iterator[Record]:
    for line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            fault = None if isinstance(values, dict) else f"{type(values).__name__}, not a JSON object"
        except (ValueError, RecursionError) as error:
            values, fault = None, f"not JSON: {error}"
        yield Record({"raw": line.strip()[:1000]} if fault else values, fault, lines.place)


def _parquet(path: Path, columns: list[str]) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    if not path.is_file():
        raise DataPathError(f"no file {path}")
    try:
        with parquet.ParquetFile(path) as opened:
            total, size, done = max(opened.metadata.num_rows, 1), path.stat().st_size, 0
            columns += opened.schema_arrow.names
            if len(set(columns)) < len(columns):
                raise DataError(f"two columns have one name: {', '.join(columns)}; rename one")
            for batch in opened.iter_batches(CHUNK_ROWS):
                batch.validate(full=True)
                for values in batch.to_pylist():
                    done += 1
                    yield Record(values, None, size * done // total)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from error


def chunks(records: Iterable[Record], size: int = CHUNK_ROWS) -> Iterator[list[Record]]:
    """Yield the records in lists of ``size``.

    >>> [len(part) for part in chunks(iter([Record({}, None, 0)] * 5), 2)]
    [2, 2, 1]
    """
    rows = iter(records)
    while part := list(islice(rows, size)):
        yield part
