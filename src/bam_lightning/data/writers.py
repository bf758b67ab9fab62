"""Rows written to any kind of table as they come: CSV, TSV, JSON lines, Parquet, standard output."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from bam_lightning.config.escaping import FORMULA
from bam_lightning.config.exceptions import DataError
from bam_lightning.data.readers import DELIMITER


class Writer(Protocol):
    """Takes rows as they come."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows."""

    def close(self) -> None:
        """Write what is left."""


def make_writer(
    target: TextIO | Path,
    kind: str,
    columns: Sequence[str],
    escape: bool,
    numbers: Sequence[str] = (),
    types: Mapping[str, Any] | None = None,
    delimiter: str | None = None,
    byte_order_mark: bool = False,
) -> Writer:
    """Return what writes rows with the given columns.

    Args:
        target: an open text stream, or the path of a Parquet file.
        kind: one of ``FORMATS``.
        columns: names and order of the columns; what a row has beside them is left out, except in JSON lines.
        numbers: of Parquet: columns of numbers, though the first rows may have none.
        types: of Parquet: Arrow types of columns, where they are known; others are those of the first rows' values.
        escape: put an apostrophe before cells of CSV and TSV that a spreadsheet would run as a formula.
        delimiter: of CSV and TSV; ``None``: comma or tab.
        byte_order_mark: begin CSV and TSV with one, by which Excel knows UTF-8.
    """
    if isinstance(target, Path):
        return _ParquetWriter(target, columns, numbers, types or {})
    if kind == "jsonl":
        return _JsonWriter(target)
    if byte_order_mark:
        target.write("\ufeff")
    return _CsvWriter(target, delimiter or DELIMITER[kind], columns, escape)


class _JsonWriter:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.stream.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)

    def close(self) -> None:
        self.stream.flush()


class _Lines(NamedTuple):
    stream: TextIO

    def write(self, line: str) -> None:
        self.stream.write(line[:-2] + "\n")


class _CsvWriter:
    """Lines end in ``\\n``, but the module is told ``\\r\\n``, for else it would not quote a ``\\r`` in a cell."""

    def __init__(self, stream: TextIO, delimiter: str, columns: Sequence[str], escape: bool) -> None:
        self.stream, self.columns, self.escape = stream, columns, escape
        self.writer = csv.writer(_Lines(stream), delimiter=delimiter)
        self.writer.writerow([self._text(name) for name in columns])

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.writer.writerows([self._text(row.get(name)) for name in self.columns] for row in rows)

    def close(self) -> None:
        self.stream.flush()

    def _text(self, value: Any) -> str:
        text = "" if value is None else _writable(_flat(value))
        return f"'{text}" if self.escape and not isinstance(value, (int, float)) and text.startswith(FORMULA) else text


class _ParquetWriter:
    def __init__(self, path: Path, columns: Sequence[str], numbers: Sequence[str], types: Mapping[str, Any]) -> None:
        self.path, self.columns, self.numbers, self.types = path, columns, numbers, types
        self.writer: Any = None

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            if self.writer is None:
                fields = [self._field(name, [_cell(row.get(name)) for row in rows]) for name in self.columns]
                self.writer = parquet.ParquetWriter(self.path, pa.schema(fields))
            schema = self.writer.schema
            arrays = [pa.array([_cell(row.get(field.name)) for row in rows], field.type) for field in schema]
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise DataError(
                f"rows of different types do not fit into one Parquet file ({error}); write jsonl"
            ) from error
        self.writer.write_table(pa.table(arrays, schema=schema))

    def _field(self, name: str, values: list[Any]) -> Any:
        """Return a column's name and type; a column that has no value yet and no known type is text."""
        import pyarrow as pa

        if name in self.numbers:
            return pa.field(name, pa.float64())
        if self.types.get(name) is not None:
            return pa.field(name, self.types[name])
        kind = pa.array(values).type
        return pa.field(name, pa.string() if pa.types.is_null(kind) else kind)

    def close(self) -> None:
        if self.writer is None:
            with suppress(ValueError):
                self.write([])
        if self.writer is not None:
            self.writer.close()


def _flat(value: Any) -> str:
    """Return a cell's text; several labels are joined by ``|``."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return "|".join(value)
    return repr(value) if isinstance(value, float) else json.dumps(value, default=str)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return "|".join(value) if isinstance(value, tuple) else value


def _writable(text: str) -> str:
    """Return a text without halves of letters, which no file holds; bytes that were no UTF-8 come out as they came."""
    if text.isascii():
        return text
    return "".join("\ufffd" if "\ud800" <= one <= "\udfff" and not "\udc80" <= one <= "\udcff" else one for one in text)
