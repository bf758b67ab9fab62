"""Tables read and written a part at a time; rows that cannot be read are named and do not stop the rest."""

import csv
import itertools
import json
import os
import threading
from contextlib import nullcontext, suppress
from io import BytesIO, TextIOWrapper

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from bam_lightning.data.readers import DELIMITER, TableFile, chunks, find_dialect, format_of
from bam_lightning.data.writers import make_writer


def rows_of(path, text, kind):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(TableFile(str(path), kind))


def test_csv_keeps_commas_quotes_and_line_ends_inside_cells(tmp_path):
    found = rows_of(tmp_path / "a.csv", 'a,b\n"x, ""y""","two\nlines"\n\nz,\n', "csv")
    assert [one.values for one in found] == [{"a": 'x, "y"', "b": "two\nlines"}, {"a": "z", "b": ""}]
    assert all(one.fault is None for one in found)
    assert found[-1].place == (tmp_path / "a.csv").stat().st_size


def test_tsv_in_which_quotes_do_not_pair_has_none_as_in_glue(tmp_path):
    found = rows_of(tmp_path / "a.tsv", 'a\tb\n"x\ty"\n', "tsv")
    assert [one.values for one in found] == [{"a": '"x', "b": 'y"'}]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("only one", "1 field, the header has 2"),
        ("one,two,three", "3 fields, the header has 2"),
        ('"a"b,c', "not CSV: ',' expected after '\"'"),
    ],
)
def test_a_bad_line_of_csv_is_named_and_the_next_is_read(tmp_path, line, fault):
    found = rows_of(tmp_path / "a.csv", f"a,b\n{line}\nx,y\n", "csv")
    assert [one.fault for one in found] == [fault, None]
    assert found[1].values == {"a": "x", "b": "y"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[1, 2]", "list, not a JSON object"),
        ('{"a": ', "not JSON: Expecting value: line 2 column 1 (char 7)"),
        ("[" * 100_000, "not JSON: it is nested too deeply"),
    ],
)
def test_a_bad_line_of_json_is_named_and_kept_and_the_next_is_read(tmp_path, line, fault):
    found = rows_of(tmp_path / "a.jsonl", f'{line}\n\n{{"a": "x"}}\n', "jsonl")
    assert [one.fault for one in found] == [fault, None]
    assert found[0].values == {"raw": line.strip()[:1000]}
    assert found[1].values == {"a": "x"}


def test_a_byte_order_mark_is_no_part_of_a_name_and_bad_bytes_are_kept(tmp_path):
    (one,) = rows_of(tmp_path / "a.csv", b"\xef\xbb\xbfa,b\nx\xff,y\n", "csv")
    assert one.values == {"a": "x\udcff", "b": "y"}
    with (tmp_path / "b.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        make_writer(stream, "csv", ["a", "b"], escape=False).write([one.values])
    assert (tmp_path / "b.csv").read_bytes() == b"a,b\nx\xff,y\n"


def test_an_endless_stream_is_read_as_it_comes(monkeypatch):
    """Rows come out while the other end is still writing: a file need not fit into memory."""
    out, into = os.pipe()
    lines = (f'{{"n": {n}}}\n'.encode() for n in itertools.count())

    def feed():
        with suppress(BrokenPipeError), os.fdopen(into, "wb") as sink:
            for line in lines:
                sink.write(line)

    threading.Thread(target=feed, daemon=True).start()
    monkeypatch.setattr("sys.stdin", os.fdopen(out))
    parts = chunks(TableFile("-", "jsonl"), 1000)
    first, second = next(parts), next(parts)
    assert [one.values["n"] for one in first + second] == list(range(2000))


def test_parquet_keeps_its_types(tmp_path):
    table = pa.table({"a": ["x", None, "z"], "n": [1, 2, 3], "v": [[1.5], [], [2.0, 3.0]]})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = list(TableFile(str(tmp_path / "a.parquet"), "parquet"))
    assert [one.values for one in found] == table.to_pylist()
    writer = make_writer(tmp_path / "b.parquet", "parquet", ["a", "n", "v", "none"], escape=False)
    for part in chunks(iter(found), 2):
        writer.write([one.values for one in part])
    writer.close()
    assert parquet.read_table(tmp_path / "b.parquet").drop(["none"]).to_pylist() == table.to_pylist()


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
@pytest.mark.parametrize(("escape", "before"), [(True, "'"), (False, "")])
def test_formulas_are_escaped_where_that_is_asked_for(tmp_path, cell, escape, before):
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        make_writer(stream, "csv", ["a", "n"], escape).write([{"a": cell, "n": -1.5}])
    with (tmp_path / "a.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["a", "n"], [before + cell, "-1.5"]]  # a number is no formula


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_what_is_written_is_read_again(tmp_path, seed, kind):
    rng = np.random.default_rng(seed)
    letters = [*"ab,\"'\n\r\t=<>&", "\u00e9", "\u4e2d"]
    rows = [{name: "".join(rng.choice(letters, rng.integers(1, 8))) for name in ("p", "q")} for _ in range(30)]
    path = tmp_path / f"a.{kind}"
    with nullcontext(path) if kind == "parquet" else path.open("w", encoding="utf-8", newline="") as target:
        writer = make_writer(target, kind, ["p", "q"], escape=False)
        writer.write(rows[:10])
        writer.write(rows[10:])
        writer.close()
    assert [one.values for one in TableFile(str(path), kind)] == rows
    if kind in DELIMITER:
        frame = pd.read_csv(path, sep=DELIMITER[kind], dtype=str, keep_default_na=False)
        assert frame.to_dict("records") == rows


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ('"Name, first";text;label\na;b;c\n', ";"),
        ("Name, first;text;label\na;b, c;d\n", ";"),
        ("Text, German;label\none;1\ntwo, three, four;0\n", ";"),
        ("Text, German;label;id\n", ";"),
        ("text,labels|more\none,a|b|c\ntwo,a\n", ","),
        ("text;label,id\none;1,2\ntwo;0,3\n", ","),
        ("text\none, two; three\n", ","),
        ('text;label\n"one;\ntwo, three";1\n', ";"),
        ("text,label\none,1\na bad row\nanother\n", ","),
    ],
)
def test_the_delimiter_is_the_one_that_separates_the_rows_like_the_header(text, delimiter):
    assert find_dialect(text, "csv", None, None).delimiter == delimiter


def test_a_line_separator_in_a_text_ends_no_row_of_tsv(tmp_path):
    found = rows_of(tmp_path / "a.tsv", 'a\tb\n"x ""y"""\tone\u2028two\n', "tsv")
    assert [one.values for one in found] == [{"a": 'x "y"', "b": "one\u2028two"}]


def test_several_labels_are_joined_in_cells_and_a_list_in_json(tmp_path):
    row = {"labels": ("red", "blue")}
    for kind in ("csv", "jsonl"):
        with (tmp_path / f"a.{kind}").open("w", newline="") as stream:
            make_writer(stream, kind, ["labels"], escape=False).write([row])
    assert (tmp_path / "a.csv").read_text() == "labels\nred|blue\n"
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"labels": ["red", "blue"]}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("x.xlsx", None,
         "input: 'x.xlsx' is a spreadsheet; save the sheet as CSV"),
        ("x.txt", None, "input: 'x.txt' has none of the endings csv, tsv, json, jsonl, parquet; rename it, or give "
         "--input-format"),
        ("-", None, "input: a stream has no ending; give --input-format, one of csv, tsv, json, jsonl, parquet"),
        ("-", "parquet", "input: Parquet cannot be streamed; give a file, or --input-format jsonl"),
    ],
)  # fmt: skip
def test_a_format_that_is_not_known_is_asked_for(name, given, message):
    with pytest.raises(ValueError) as error:
        format_of("input", name, given)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "{path} is empty; its first line must name the columns"),
        ("a,b,a\n", "{path} has two columns of one name: a, b, a; rename one"),
    ],
)
def test_a_csv_file_without_a_sound_header_is_named(tmp_path, text, message):
    with pytest.raises(ValueError) as error:
        rows_of(tmp_path / "a.csv", text, "csv")
    assert str(error.value) == message.format(path=tmp_path / "a.csv")


def test_what_is_no_parquet_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^.*a\.parquet cannot be read as parquet: "):
        rows_of(tmp_path / "a.parquet", "no", "parquet")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_half_a_letter_is_replaced_and_stops_no_row(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    with (
        nullcontext(path) if kind == "parquet" else path.open("w", encoding="utf-8", errors="surrogateescape") as target
    ):
        writer = make_writer(target, kind, ["a"], escape=False)
        writer.write([{"a": "x\ud800"}, {"a": "y"}])
        writer.close()
    first, second = (one.values["a"] for one in TableFile(str(path), kind))
    assert set(first) == {"x", "\ufffd"}
    assert second == "y"


def test_formulas_are_escaped_in_joined_labels_too(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        make_writer(stream, "csv", ["a", "b"], escape=True).write([{"a": ("=cmd()", "x"), "b": ["=y"]}])
    assert (tmp_path / "a.csv").read_text() == "a,b\n'=cmd()|x,'=y\n"


def test_numbers_that_come_late_are_numbers(tmp_path):
    writer = make_writer(tmp_path / "a.parquet", "parquet", ["a", "n"], escape=False, numbers=["n"])
    writer.write([{"a": "x"}])
    writer.write([{"a": "y", "n": 0.5}])
    writer.close()
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == [{"a": "x", "n": None}, {"a": "y", "n": 0.5}]


def test_rows_of_mixed_types_are_no_traceback(tmp_path):
    writer = make_writer(tmp_path / "a.parquet", "parquet", ["a"], escape=False)
    with pytest.raises(ValueError, match=r"^rows of different types do not fit into one Parquet file .*; write jsonl$"):
        writer.write([{"a": 1}, {"a": "x"}])


def test_a_header_that_is_no_csv_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^.*a\.csv is not CSV: "):
        rows_of(tmp_path / "a.csv", '"a"b,c\nx,y\n', "csv")


def test_columns_that_appear_late_are_known_ahead(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"a": 1}\n' * 5000 + '{"a": 1.5, "ticket": "x", "n": null, "m": 1}\n{"m": "y"}\n'
    )
    assert TableFile(str(tmp_path / "a.jsonl"), "jsonl").schema() == {
        "a": pa.float64(),
        "ticket": pa.string(),
        "n": pa.string(),
        "m": None,
    }


def test_parquet_is_written_with_the_types_of_the_input(tmp_path):
    """A column may have no value in the first rows."""
    table = pa.table({"n": pa.array([None] * 5000 + [7], pa.int64()), "d": pa.array([1.0] * 5001, pa.float32())})
    parquet.write_table(table, tmp_path / "a.parquet")
    source = TableFile(str(tmp_path / "a.parquet"), "parquet")
    writer = make_writer(tmp_path / "b.parquet", "parquet", ["n", "d"], escape=False, types=source.schema())
    for part in chunks(source):
        writer.write([record.values for record in part])
    writer.close()
    assert parquet.read_table(tmp_path / "b.parquet") == table


def test_the_output_is_written_uncompressed_so_other_endings_are_refused():
    for name in ("a.csv.gz", "a.json"):
        with pytest.raises(ValueError, match=r"endings csv, tsv, jsonl, parquet; .* --output-format"):
            format_of("output", name, None)
    assert format_of("input", "a.CSV.gz", None) == "csv"


def test_a_sample_that_ends_inside_a_cell_of_several_lines_is_quoted(tmp_path, monkeypatch):
    """What is written as TSV is read again, whatever its size; a quote of GLUE that is never closed is a letter."""
    rows = [{"a": f'"{n}"\nand\nmore', "b": "x"} for n in range(40)]
    with (tmp_path / "a.tsv").open("w", encoding="utf-8", newline="") as target:
        make_writer(target, "tsv", ["a", "b"], escape=False).write(rows)
    for size in range(50, 90):
        monkeypatch.setattr("bam_lightning.data.readers.SAMPLE_BYTES", size)
        assert [one.values for one in TableFile(str(tmp_path / "a.tsv"), "tsv")] == rows
        lines = "one\tx\n" * 5 + '"two\tx\n' + "three\tx\n" * 40
        assert len(rows_of(tmp_path / "b.tsv", f"a\tb\n{lines}", "tsv")) == 46


def test_rows_of_a_pipe_say_how_they_are_separated(monkeypatch):
    text = b"Text, German;label\none;1\ntwo, three, four;0\n"
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(text)))
    assert [one.values["label"] for one in TableFile("-", "csv")] == ["1", "0"]
