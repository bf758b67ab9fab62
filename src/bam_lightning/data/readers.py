"""Read tables of any kind: CSV, TSV, JSON, JSON lines, Parquet, each of them compressed or not, and standard input.

Training and prediction share one reader. ``TableFile`` yields rows as they come and hands on a row that cannot be
read with the reason; ``read_columns`` needs every row and raises an error for the first such row."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
import lzma
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from bam_lightning.config.data_config import LARGEST
from bam_lightning.config.exceptions import DataError, DataPathError
from bam_lightning.config.validation import DELIMITERS, SIMILAR, check_choice, expand_path, header_hint, suggest

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")
WRITTEN_FORMATS = ("csv", "tsv", "jsonl", "parquet")
STREAM = "-"
CHUNK_ROWS = 4_096
LONGEST_FIELD = 1 << 20  # characters; a quote that is never closed must not swallow a whole file
LONGEST_LINE = 64 << 20  # bytes, after decompression; a small file may hold a line of gigabytes
LARGEST_JSON = 256 << 20  # bytes of a JSON array, which is read as a whole
LARGEST_BATCH = 1 << 30  # bytes of the text in CHUNK_ROWS rows of Parquet
EXPANSION, FREELY = 200, 1 << 30  # Parquet's text is at most so many times its file, or so many bytes
SAMPLE_BYTES = 1 << 20  # of CSV and TSV, to find delimiter and quoting
DELIMITER = {"csv": ",", "tsv": "\t"}
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
SHOWN_FILES = 5  # in messages
SAMPLE_ROWS = 1_000  # of CSV and TSV, to find the delimiter
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what damaged compressed files raise


class Record(NamedTuple):
    """One row: its columns, why it could not be read (or ``None``), and how far into the source it lies (bytes)."""

    values: dict[str, Any]
    fault: str | None
    place: int


class Dialect(NamedTuple):
    """How fields of CSV and TSV are separated, and whether ``"`` quotes them."""

    delimiter: str
    quoting: bool

    @property
    def options(self) -> dict[str, Any]:
        """Options of the csv module."""
        if self.quoting:
            return {"delimiter": self.delimiter, "strict": True}
        return {"delimiter": self.delimiter, "quoting": csv.QUOTE_NONE, "quotechar": None}


def split_ending(name: str) -> tuple[str, str]:
    """Return a file's name without its endings, and its format, or an empty one.

    >>> split_ending("train.CSV.gz"), split_ending("notes.md")
    (('train', 'csv'), ('notes.md', ''))
    """
    path = Path(name)
    if path.suffix.lower() in _OPENERS:
        path = path.with_suffix("")
    kind = path.suffix.lower().removeprefix(".")
    kind = {"ndjson": "jsonl", "pq": "parquet"}.get(kind, kind)
    return (path.stem, kind) if kind in FORMATS else (Path(name).name, "")


def format_of(key: str, name: str, given: str | None) -> str:
    """Return the format of a file by its ending, or the one that is ``given``.

    Raises:
        DataError: For an unknown one, or a stream without one.
    """
    formats = FORMATS if key == "input" else WRITTEN_FORMATS
    ending = split_ending(name)[1] if key == "input" else Path(name).suffix.lower().removeprefix(".")
    found = given or ("" if name == STREAM else ending)
    if given is not None:
        check_choice(f"--{key}-format", given, formats)
    if found not in formats and name == STREAM:
        raise DataError(f"{key}: a stream has no ending; give --{key}-format, one of {', '.join(formats)}")
    if found not in formats:
        raise DataError(f"{key}: {name!r} {no_format(name, formats, f'--{key}-format')}")
    if found == "parquet" and name == STREAM:
        raise DataError(f"{key}: Parquet cannot be streamed; give a file, or --{key}-format jsonl")
    return found


def no_format(name: str, formats: Sequence[str] = FORMATS, option: str = "") -> str:
    """Return why the format of a file is not known, and what to do; ``option`` also sets it.

    >>> no_format("a.xlsx")
    'is a spreadsheet; save the sheet as CSV'
    """
    if Path(name).suffix.lower() in SPREADSHEETS:
        return f"is a spreadsheet; {'name a .csv file' if formats is WRITTEN_FORMATS else 'save the sheet as CSV'}"
    return f"has none of the endings {', '.join(formats)}; rename it{f', or give {option}' if option else ''}"


class TableFile:
    """The rows of a file or of standard input, read a part at a time.

    Args:
        name: Path, or ``-`` for standard input.
        kind: One of ``FORMATS``.
        delimiter: Of CSV and TSV. ``None`` finds it in the first rows.
        quoting: Whether ``"`` quotes fields of TSV; in CSV it always does. ``None``: if the first rows can be read
            that way.
        unique_columns: Refuse two columns of one name.

    Attributes:
        columns: Names in the header of CSV and TSV or in Parquet's schema, known once the first row was asked for;
            each row of JSON has its own.
        byte_order_mark: Whether the file begins with one, known then too.
        found: The dialect of CSV and TSV, known then too.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        delimiter: str | None = None,
        quoting: bool | None = None,
        unique_columns: bool = True,
    ) -> None:
        self.name, self.kind = name, kind
        self.delimiter, self.quoting, self.unique_columns = delimiter, quoting, unique_columns
        self.columns: list[str] = []
        self.byte_order_mark = False
        self.found: Dialect | None = None

    def __iter__(self) -> Iterator[Record]:
        """Yield the rows.

        Raises:
            DataError: If there is no such file, or it is not a table.
        """
        if self.kind == "parquet":
            yield from self._parquet()
            return
        try:
            with self._open() as source:
                counted = _CountedLines(self._lines(source, LARGEST_JSON if self.kind == "json" else LONGEST_LINE))
                if self.kind == "jsonl":
                    yield from _json_lines(counted)
                elif self.kind == "json":
                    yield from self._json(counted)
                else:
                    yield from self._csv(counted)
        except _UNREADABLE as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.name} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def schema(self) -> dict[str, pa.DataType | None] | None:
        """Return every column and its type, or ``None`` for a column of several types.

        JSON is read once for it. Standard input cannot be read twice: the answer is ``None``.
        """
        if self.name == STREAM:
            return None
        if self.kind == "parquet":
            from pyarrow import parquet

            schema = parquet.read_schema(Path(self.name).expanduser())
            return dict(zip(schema.names, schema.types, strict=True))
        if self.kind in ("csv", "tsv"):
            next(iter(self), None)
            return dict.fromkeys(self.columns, pa.string())
        kinds: dict[str, set[type]] = {}
        for record in self:
            for column, value in record.values.items():
                kinds.setdefault(column, set()).add(type(value))
        return {column: _arrow_type(found - {type(None)}) for column, found in kinds.items()}

    def _open(self) -> Any:
        if self.name == STREAM:
            return sys.stdin.buffer
        path = Path(self.name).expanduser()
        if not path.is_file():
            raise DataPathError(f"no file {path}")
        return _OPENERS.get(path.suffix.lower(), Path.open)(path, "rb")

    def _lines(self, source: Any, longest: int) -> Iterator[str]:
        for number, line in enumerate(iter(lambda: source.readline(longest + 1), b"")):
            if len(line) > longest:
                raise DataError(f"{self.name}: line {number + 1} is longer than {longest >> 20} MiB; is it a table?")
            if not number and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{self.name} is UTF-16 text, not UTF-8; save it as UTF-8")
            if not number:
                self.byte_order_mark = line.startswith(codecs.BOM_UTF8)
            yield line.decode("utf-8" if number else "utf-8-sig", "surrogateescape")

    def _csv(self, lines: _CountedLines) -> Iterator[Record]:
        csv.field_size_limit(LONGEST_FIELD)
        size = CHUNK_ROWS if self.name == STREAM else SAMPLE_BYTES  # of a pipe less than the first chunk of rows has
        sample = lines.peek(size)
        title = self.kind.upper()
        self.found = find_dialect(sample, self.kind, self.delimiter, self.quoting, whole=len(sample) < size)
        rows = csv.reader(lines, **self.found.options)
        try:
            header: list[str] | None = []
            while header is not None and not header:
                header = next(rows, None)  # empty lines may come first
        except csv.Error as error:
            raise DataError(f"{self.name} is not {title}: {_csv_reason(error)}") from error
        if header is None:
            raise DataError(f"{self.name} is empty; its first line must name the columns")
        if self.unique_columns and len(set(header)) < len(header):
            raise DataError(f"{self.name} has two columns of one name: {', '.join(header)}; rename one")
        self.columns[:] = header
        while True:
            fault = None
            try:
                row = next(rows, None)
            except csv.Error as error:
                row, fault = [], f"not {title}: {_csv_reason(error)}"
            if row is None:
                return
            if fault is None and not row:
                continue  # an empty line
            if fault is None and len(row) != len(header):
                fault = f"{len(row)} field{'s'[: len(row) != 1]}, the header has {len(header)}"
            fields = [*row, *[None] * len(header)][: len(header)]
            yield Record(dict(zip(header, fields, strict=True)), fault, lines.place)

    def _json(self, lines: _CountedLines) -> Iterator[Record]:
        """Yield the rows of an array of objects; other files named ``.json`` are JSON lines."""
        if not lines.peek(1).lstrip().startswith("["):
            yield from _json_lines(lines)
            return
        parts: list[str] = []
        for line in lines:
            parts.append(line)
            if lines.place > LARGEST_JSON:
                raise DataError(
                    f"{self.name}: a JSON array of more than {LARGEST_JSON >> 20} MiB; save it as JSON lines"
                )
        try:
            rows = json.loads("".join(parts), object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.name} is not JSON: {_json_reason(error)}") from error
        for values in rows:
            fault = None if isinstance(values, dict) else f"{type(values).__name__}, not a JSON object"
            yield Record({"raw": json.dumps(values)[:1000]} if fault else values, fault, lines.place)

    def _parquet(self) -> Iterator[Record]:
        from pyarrow import parquet

        path = Path(self.name).expanduser()
        if not path.is_file():
            raise DataPathError(f"no file {path}")
        try:
            with parquet.ParquetFile(path, read_dictionary=_text_columns(path)) as opened:
                _check_parquet_size(opened, path)
                total, size, done = max(opened.metadata.num_rows, 1), path.stat().st_size, 0
                names = opened.schema_arrow.names
                self.columns[:] = names
                if len(set(names)) < len(names):
                    raise DataError(f"two columns have one name: {', '.join(names)}; rename one")
                first = text = 0  # row and bytes since then: readers take so many rows at a time
                for batch in opened.iter_batches(CHUNK_ROWS):
                    batch.validate(full=True)
                    first, text = (done, 0) if done - first >= CHUNK_ROWS else (first, text)
                    text += sum(map(_expanded_bytes, batch.columns))
                    if text > LARGEST_BATCH:
                        raise DataError(
                            f"rows {first:,} to {done + len(batch):,} hold {text >> 20:,} MiB of text, more than "
                            f"{LARGEST_BATCH >> 20:,}; shorten the texts"
                        )
                    for values in batch.to_pylist():
                        done += 1
                        yield Record(values, None, size * done // total)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from error


class _CountedLines:
    """Lines, and how many bytes of them were read; the first ones can be looked at before they are read."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.place = lines, 0
        self.peeked: list[str] = []

    def __iter__(self) -> _CountedLines:
        return self

    def __next__(self) -> str:
        line = self.peeked.pop() if self.peeked else next(self.lines)
        self.place += len(line) if line.isascii() else len(line.encode("utf-8", "surrogateescape"))
        return line

    def peek(self, size: int) -> str:
        """Return the first lines, up to the one that reaches ``size`` characters. They stay to be read."""
        taken: list[str] = []
        for line in self.lines:
            taken.append(line)
            size -= len(line)
            if size <= 0:
                break
        self.peeked = taken[::-1]
        return "".join(taken)


def find_dialect(sample: str, kind: str, delimiter: str | None, quoting: bool | None, whole: bool = True) -> Dialect:
    """Return the delimiter and quoting of CSV or TSV, as far as they are not given, from the file's first lines.

    The delimiter of TSV is the tab if its header has one. Else it is the one that separates most rows like the header,
    then the one that the header has most often outside quotes, then the ending's own. CSV is quoted.
    TSV is quoted, as pandas writes it, unless a line cannot be read that way: GLUE's files use ``"`` as a letter.

    >>> find_dialect('"Name, first";b;label\\n', "csv", None, None)
    Dialect(delimiter=';', quoting=True)
    >>> find_dialect('a\\tb\\n"one\\ttwo\\n', "tsv", None, None)
    Dialect(delimiter='\\t', quoting=False)
    """
    if delimiter is None:
        header = next((line for line in sample.splitlines() if line.strip()), "")
        usual = DELIMITER[kind]
        signs = [sign for sign in (usual, *DELIMITERS) if sign in header] or [usual]
        certain = kind == "tsv" and signs[0] == usual
        delimiter = usual if certain else max(dict.fromkeys(signs), key=lambda sign: _fit(sample, sign))
    if kind == "csv":
        quoting = True
    elif quoting is None:
        quoting = _reads_quoted(sample, delimiter, whole)
    return Dialect(delimiter, quoting)


def _fit(sample: str, delimiter: str) -> tuple[float, int]:
    """Return how well a delimiter fits: the share of rows with as many fields as the header, and that number; zeros
    if the header is one field."""
    csv.field_size_limit(LONGEST_FIELD)
    widths: list[int] = []
    with suppress(csv.Error):  # a field that is too long
        for row in islice(csv.reader(_sample_lines(sample), delimiter=delimiter), SAMPLE_ROWS):
            widths += [len(row)] * bool(row)
    if not widths or widths[0] == 1:
        return 0.0, 0
    return widths.count(widths[0]) / len(widths), widths[0]


def _sample_lines(sample: str) -> list[str]:
    """Return the lines as they are read, which end in line feeds alone."""
    return list(StringIO(sample, newline="\n"))


def _reads_quoted(sample: str, delimiter: str, whole: bool) -> bool:
    """Return whether each row of a sample has as many fields as the first if ``"`` quotes fields.

    A sample that is not the whole file may end inside a cell of several lines, if there were quotes before it.
    """
    csv.field_size_limit(LONGEST_FIELD)
    lines = _sample_lines(sample)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    widths: set[int] = set()
    ended = 0  # lines of the rows that were read
    try:
        for row in rows:
            widths |= {len(row)} if row else set()
            ended = rows.line_num
    except csv.Error:
        if whole or rows.line_num < len(lines) or not any('"' in line for line in lines[:ended]):
            return False
    return len(widths) <= 1 or '"' not in sample


def _csv_reason(error: csv.Error) -> str:
    if "field larger than field limit" in str(error):
        return f"a field is longer than {LONGEST_FIELD >> 20} MiB, perhaps by a quote that is never closed"
    return str(error)


def _json_reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands twice in one object")
    return values


def _json_lines(lines: _CountedLines) -> Iterator[Record]:
    for line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=_object)
            fault = None if isinstance(values, dict) else f"{type(values).__name__}, not a JSON object"
        except (ValueError, RecursionError) as error:
            values, fault = None, f"not JSON: {_json_reason(error)}"
        yield Record({"raw": line.strip()[:1000]} if fault else values, fault, lines.place)


def _arrow_type(kinds: set[type]) -> pa.DataType | None:
    """Return the Arrow type of values of the given Python types; ``None`` if they have none in common."""
    if not kinds:
        return pa.string()
    if kinds == {int, float}:
        return pa.float64()
    simple = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return simple.get(next(iter(kinds))) if len(kinds) == 1 else None


def chunks(records: Iterable[Record], size: int = CHUNK_ROWS) -> Iterator[list[Record]]:
    """Yield the records in lists of ``size``.

    >>> [len(part) for part in chunks(iter([Record({}, None, 0)] * 5), 2)]
    [2, 2, 1]
    """
    rows = iter(records)
    while part := list(islice(rows, size)):
        yield part


class Columns(NamedTuple):
    """Some columns of a file as a table, and the names of all that the file has."""

    table: pa.Table
    names: list[str]


def expand_columns(wanted: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the wanted columns, each once; one with a ``*`` stands for those of ``names`` that it matches.

    >>> expand_columns(["text", "p_*"], ["p_a", "text", "p_b"])
    ['text', 'p_a', 'p_b']
    """
    found: dict[str, None] = {}
    for column in wanted:
        if "*" not in column or column in names:
            found[column] = None
            continue
        before, _, after = column.partition("*")
        found |= dict.fromkeys(
            name
            for name in names
            if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
        )
    return list(found)


def read_columns(
    path: Path,
    wanted: Sequence[str],
    delimiter: str | None = None,
    quoting: bool | None = None,
    option: str = "delimiter",
    mixed: Sequence[str] = (),
) -> Columns:
    """Return the wanted columns of a file, those that exist; what is in the others does not matter.

    Columns of CSV and TSV are text. Those of JSON have the type of their values; values of several types become
    text in the columns ``mixed``. ``option`` is how the user sets ``delimiter``.

    Raises:
        DataError: If the file or a row of it cannot be read.
    """
    kind = split_ending(path.name)[1]
    if kind == "parquet":
        return _read_parquet(path, wanted)
    source = TableFile(str(path), kind, delimiter, quoting, unique_columns=False)
    if any("*" in column for column in wanted):
        wanted = expand_columns(wanted, list(source.schema() or ()))
    found: dict[str, None] = {}
    values: dict[str, list[Any]] = {column: [] for column in dict.fromkeys(wanted)}
    rows = 0
    for rows, record in enumerate(source, start=1):
        if record.fault:
            hint = header_hint(source.columns, option, delimiter)
            raise DataError(f"row {rows - 1}: {record.fault}{hint or '; mend that row'}")
        if kind in ("json", "jsonl"):
            found.update(dict.fromkeys(record.values))
        for column, cells in values.items():
            cells.append(record.values.get(column))
    names = list(found) or source.columns
    arrays = {}
    for column, cells in values.items():
        if column in names:
            arrays[column] = _column(column, cells, column in mixed)
    table = pa.table(arrays) if arrays else pa.table({"": pa.nulls(rows)}).select([])
    return Columns(table, names)


def _column(column: str, cells: list[Any], mixed: bool) -> pa.Array:
    try:
        return pa.array(cells)
    except UnicodeEncodeError as error:
        row = next(row for row, cell in enumerate(cells) if isinstance(cell, str) and not _is_utf8(cell))
        raise DataError(f"row {row}: column {column!r} is not UTF-8 text; save the file as UTF-8") from error
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        if mixed:
            return pa.array([None if cell is None else str(cell) for cell in cells])
        kinds = ", ".join(sorted({type(cell).__name__ for cell in cells if cell is not None}))
        raise DataError(
            f"column {column!r} holds values of several types ({kinds}); write all of them as text"
        ) from error


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_parquet(path: Path, wanted: Sequence[str]) -> Columns:
    from pyarrow import parquet

    with parquet.ParquetFile(path, read_dictionary=_text_columns(path)) as opened:
        names = list(opened.schema_arrow.names)
        existing = [column for column in expand_columns(wanted, names) if names.count(column) == 1]
        _check_parquet_size(opened, path)
        table = opened.read(columns=existing)
        table.validate(full=True)  # before a dictionary's offsets are used
        _check_expansion(sum(_expanded_bytes(part) for column in table.columns for part in column.chunks), path)
        plain = parquet.read_schema(path)
        table = table.cast(pa.schema([plain.field(column) for column in table.column_names]))
        if not existing:
            table = pa.table({"": pa.nulls(opened.metadata.num_rows)}).select([])
        table = table.replace_schema_metadata(opened.schema_arrow.metadata)
    table.validate(full=True)  # damaged Parquet: invalid UTF-8, list offsets outside their values
    return Columns(table.select(existing), names)


def _text_columns(path: Path) -> list[str]:
    """Return the text columns of a Parquet file; read as dictionaries, a text of many rows is kept once."""
    from pyarrow import parquet

    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return [field.name for field in parquet.read_schema(path) if any(is_text(field.type) for is_text in text)]


def _check_parquet_size(opened: Any, path: Path) -> None:
    """Raise ``DataError`` for a small file that stands for too many rows, list items or bytes, before it is read."""
    about = opened.metadata
    values: dict[str, int] = {}
    size = 0
    for group in map(about.row_group, range(about.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            values[column.path_in_schema] = values.get(column.path_in_schema, 0) + column.num_values
            size += column.total_uncompressed_size
    most = max([about.num_rows, *values.values()])
    if most > LARGEST:
        raise DataError(f"{path} stands for {most:,} rows or items of lists, more than {LARGEST:,}; split it")
    _check_expansion(size, path)


def _expanded_bytes(column: Any) -> int:
    """Return the bytes that an array of text takes once each row has its own; 0 for other types."""
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return 0
    try:
        lengths = pc.binary_length(column.dictionary)
    except pa.ArrowNotImplementedError:  # categories that are numbers
        return 0
    return int(pc.sum(lengths.cast(pa.int64()).take(column.indices)).as_py() or 0)


def _check_expansion(size: int, path: Path) -> None:
    most = max(EXPANSION * path.stat().st_size, FREELY)
    if size > most:
        raise DataError(
            f"{path} has {path.stat().st_size:,} bytes but stands for {size:,}, more than {most:,}; if its texts are "
            "meant, save it as JSON lines"
        )


def read_error(error: Exception) -> str:
    """Return why a file cannot be read, in plain words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{reason}; save it as UTF-8" if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in reason else reason
    )


def path_exists(path: Path) -> bool:
    """Return whether a path exists; one that cannot be asked for, as its name is too long, does not."""
    try:
        return path.exists()
    except OSError:
        return False


def list_names(names: Sequence[str], most: int) -> str:
    """Return the first names with commas between them, and how many more there are.

    >>> list_names(["a.csv", "b.csv", "c.csv"], 2)
    'a.csv, b.csv and 1 more'
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "none"


def names_in(folder: Path, tables: bool = False) -> list[str]:
    """Return the names of what lies in a folder, or of its tables alone."""
    if not (path_exists(folder) and folder.is_dir()):
        return []
    found = [path for path in folder.iterdir() if not path.name.startswith(".")] if os.access(folder, os.R_OK) else []
    return sorted(path.name for path in found if not tables or (split_ending(path.name)[1] and path.is_file()))


def missing_path(path: Path, remedy: str) -> str:
    """Return that a file or folder is not there: its whole path, what lies beside it, what to do, what was meant."""
    whole = Path.cwd() / path
    others = [name for name in names_in(whole.parent) if name != path.name]  # it may be a folder
    of_table = bool(split_ending(path.name)[1])
    kind = "file" if of_table else "file or folder"
    base = "" if path.is_absolute() else f" (paths are relative to {Path.cwd()})"
    there = f"; files there: {list_names(names_in(whole.parent, tables=True), SHOWN_FILES)}" if of_table else ""
    return f"no {kind} {whole}{base}{there}; {remedy}{suggest(path.name, others, SIMILAR)}"


def read_texts(files: Iterable[str]) -> list[str]:
    """Return the non-empty lines of the files, one text each.

    Raises:
        DataError: naming the file that is missing, not UTF-8, or empty.
    """
    texts: list[str] = []
    for name in files:
        path = expand_path("encoder.pretraining.text", name)
        if not (path_exists(path) and path.is_file()):
            raise DataPathError(f"encoder.pretraining.text: no file {path}; give text files, one text a line")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise DataError(f"encoder.pretraining.text: {path} is not UTF-8 text: {error}") from error
        if not any(lines):
            raise DataError(f"encoder.pretraining.text: {path} has no text in it")
        texts += [line for line in lines if line]
    return texts
