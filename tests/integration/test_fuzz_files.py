"""Random edits of good data files are read, or refused by an error of ours; see ``test_fuzz``."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from bam_lightning.config.data_config import DataConfig, HeadConfig, Metric, TaskConfig
from bam_lightning.data.examples import load_examples
from bam_lightning.data.task import task_from_config
from conftest import sentences
from fuzzing import FIRST, TRIES, outcome

NAMES = HeadConfig("bam_lightning.ClassificationHead", ["no", "yes"])
TASKS = {
    "class": {"head": NAMES},
    "score": {"head": HeadConfig("bam_lightning.RegressionHead", [], [0.0, 5.0]), "metric": Metric.spearman},
    "set": {"head": HeadConfig("bam_lightning.MultiLabelHead", ["no", "yes"]), "metric": Metric.macro_f1},
}
CELLS = [
    "",
    " ",
    "no",
    "-1",
    "7",
    "nan",
    "inf",
    "true",
    "2020-01-01",
    "1e400",
    "\u00e9",
    "\0",
    '"',
    '""',
    ";",
    "\t",
    "a" * 9999,
]


def table(rng, kind) -> pa.Table:
    """Return 20 good rows, or with a few cells, columns or types of another kind."""
    first, second = sentences(20, 1), sentences(20, 2)
    labels = {"class": [n % 2 for n in range(20)], "score": [n / 4 for n in range(20)], "set": ["no|yes", "no"] * 10}
    columns = {"a": first, "b": second, "label": [str(one) for one in labels[kind]], "idx": [str(n) for n in range(20)]}
    for _ in range(rng.integers(3)):
        columns[list(columns)[rng.integers(4)]][rng.integers(20)] = CELLS[rng.integers(len(CELLS))]
    order = list(rng.permutation(4)) if rng.random() < 0.2 else [0, 1, 2, 3]
    names = (
        list(columns) if rng.random() < 0.9 else [["a", "b", "label", "idx", "A", ""][rng.integers(6)] for _ in order]
    )
    return pa.table([list(columns.values())[place] for place in order], names=names)


def typed(rng, rows) -> pa.Table:
    """Return the table with columns of other types, as Parquet may have them."""
    kinds = [
        pa.int64(),
        pa.float32(),
        pa.bool_(),
        pa.binary(),
        pa.large_string(),
        pa.decimal128(9, 2),
        pa.date32(),
        pa.null(),
    ]
    for place in range(4):
        if rng.random() < 0.3:
            kind = kinds[rng.integers(len(kinds))]
            values = rows.column(place).to_pylist()
            try:
                column = pa.array([[one] for one in values]) if rng.random() < 0.2 else pa.array(values).cast(kind)
            except pa.ArrowException:
                continue
            rows = rows.set_column(place, rows.column_names[place], column)
    return rows


def edit_file(seed):
    """Return kind of task, ending and bytes of a file that is good but for a few cells, bytes, or its end."""
    rng = np.random.default_rng([seed, 3])
    kind, ending = list(TASKS)[rng.integers(3)], ["csv", "tsv", "jsonl", "parquet"][rng.integers(4)]
    rows, sink = table(rng, kind), io.BytesIO()
    if ending == "parquet":
        parquet.write_table(typed(rng, rows), sink, compression=["none", "snappy"][rng.integers(2)])
    elif ending == "jsonl":
        sink.write("\n".join(json.dumps(row) for row in rows.to_pylist()).encode())
    elif ending == "csv":
        csv.write_csv(rows, sink)
    else:
        cells = [rows.column_names, *zip(*(column.to_pylist() for column in rows.columns), strict=True)]
        sink.write("\n".join("\t".join(line) for line in cells).encode())
    content = bytearray(sink.getvalue())
    for _ in range(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2])):
        place = int(rng.integers(len(content)))
        edit = rng.integers(5)
        if edit == 0:
            content[place] ^= 1 << int(rng.integers(8))
        elif edit == 1:
            content[place:place] = rng.bytes(int(rng.integers(1, 9)))
        elif edit == 2:
            del content[place : place + int(rng.integers(1, 40))]
        elif edit == 3 and rng.random() < 0.3:
            del content[place:]
        else:
            content[place:place] = [b'"', b",", b"\n", b"\t", b"{", b"[", b"\xff\xfe", b"\xef\xbb\xbf"][rng.integers(8)]
        content = content or bytearray(b"\n")
    return kind, ending, bytes(content)


def test_an_edited_data_file_is_read_or_refused(tmp_path):
    ran = 0
    for seed in range(FIRST, FIRST + TRIES):
        kind, ending, content = edit_file(seed)
        path = tmp_path / f"train.{ending}"
        path.write_bytes(content)
        ids = {} if seed % 3 else {"id_column": "idx"}
        task = TaskConfig(str(tmp_path), text=["a", "b"], dev_split="train", **TASKS[kind], **ids)
        ran += outcome(lambda task=task: load_examples("mine", task_from_config("mine", task, DataConfig())), seed)
        path.unlink()
    assert 0.1 * TRIES < ran < 0.9 * TRIES
