"""Small files that stand for gigabytes, deep nesting and huge numbers: an error in little memory and time."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from bam_lightning.config.exceptions import DataError
from bam_lightning.data import readers
from bam_lightning.data.readers import TableFile, read_columns
from conftest import little_memory


def write_parquet(path: Path, column) -> Path:
    parquet.write_table(pa.table({"text": column, "label": pa.array([0] * len(column))}), path)
    assert path.stat().st_size < 2 << 20
    return path


def of_one_text(rows: int, size: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["a" * size]))


@pytest.fixture
def dictionary_bomb(tmp_path) -> Path:
    """8,000 rows of one text of 100,000 letters: 800 MB, in some kilobytes; plain strings to whoever reads it."""
    path = tmp_path / "bomb.parquet"
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())])
    with parquet.ParquetWriter(path, schema, compression="zstd", write_batch_size=400) as writer:
        for _ in range(20):
            writer.write_table(pa.table({"text": ["a" * 100_000] * 400, "label": [0] * 400}, schema))
    return path


def test_a_parquet_file_of_one_long_text_in_many_rows_is_refused(dictionary_bomb, monkeypatch):
    monkeypatch.setattr(readers, "FREELY", 1 << 20)
    size = dictionary_bomb.stat().st_size
    assert size < 1 << 20
    with little_memory(400), pytest.raises(DataError) as caught:
        read_columns(dictionary_bomb, ["text", "label"])
    assert f"{dictionary_bomb} has {size:,} bytes but stands for " in str(caught.value)


def test_a_part_of_a_parquet_file_that_would_fill_the_memory_is_refused_in_a_stream(dictionary_bomb, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_BATCH", 100 << 20)
    with little_memory(400), pytest.raises(DataError, match=r"rows 0 to [\d,]+ hold \d+ MiB of text, more than 100"):
        list(TableFile(str(dictionary_bomb), "parquet"))


def test_a_parquet_file_of_too_many_rows_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST", 1000)
    path = write_parquet(tmp_path / "rows.parquet", pa.array(["a"] * 1001))
    with pytest.raises(DataError, match="stands for 1,001 rows or items of lists, more than 1,000"):
        read_columns(path, ["text"])
    lists = write_parquet(tmp_path / "lists.parquet", pa.array([[1] * 2000, [2]]))
    with pytest.raises(DataError, match="stands for 2,001 rows or items of lists"):
        list(TableFile(str(lists), "parquet"))


def test_texts_that_repeat_and_categories_are_read_as_before(tmp_path):
    path = write_parquet(tmp_path / "plain.parquet", pa.array(["ä", None, "b"] * 30))
    read = read_columns(path, ["text", "label"])
    assert read.table.schema.types == [pa.string(), pa.int64()]
    assert read.table["text"].to_pylist() == ["ä", None, "b"] * 30
    assert [record.values["text"] for record in TableFile(str(path), "parquet")] == ["ä", None, "b"] * 30
    categories = write_parquet(tmp_path / "categories.parquet", of_one_text(3, 2))
    assert read_columns(categories, ["text"]).table["text"].to_pylist() == ["aa"] * 3


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_a_compressed_line_of_gigabytes_is_refused(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(readers, "LONGEST_LINE", 8 << 20)
    monkeypatch.setattr(readers, "LARGEST_JSON", 8 << 20)
    path = tmp_path / f"bomb.{ending}.gz"
    with gzip.open(path, "wb", compresslevel=1) as target:
        for _ in range(32):
            target.write(b"[" * (1 << 20))
    with little_memory(200), pytest.raises(DataError, match="line 1 is longer than 8 MiB"):
        list(TableFile(str(path), ending))


def test_a_json_array_of_many_lines_is_refused_above_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_JSON", 1000)
    path = tmp_path / "rows.json"
    path.write_text("[" + ",\n".join(['{"a": 1}'] * 1000) + "]")
    with pytest.raises(DataError, match=r"a JSON array of more than 0 MiB; save it as JSON lines"):
        list(TableFile(str(path), "json"))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[" * 100_000, "not JSON: it is nested too deeply"),
        ('{"a":' * 100_000, "not JSON: it is nested too deeply"),
        ('{"label": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit (4300 digits) for integer string conversion"),
    ],
)
def test_deep_nesting_and_endless_numbers_are_the_fault_of_their_row(tmp_path, line, fault):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n{json.dumps({'a': 1})}\n")
    first, second = TableFile(str(path), "jsonl")
    assert first.fault.startswith(fault)
    assert second.values == {"a": 1}


def test_a_number_beyond_64_bits_is_named_by_its_column(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"label": 1%s}\n' % ("0" * 400))
    with pytest.raises(DataError, match="column 'label' holds"):
        read_columns(path, ["label"])
