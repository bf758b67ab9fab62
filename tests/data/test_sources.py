"""Where splits are read: each kind of file, any file name, shards, and the whole message where nothing can be read."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import os
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from bam_lightning.config.data_config import DataConfig, HeadConfig, TaskConfig
from bam_lightning.config.exceptions import ConfigError, DataError
from bam_lightning.config.hub import encoder_fingerprint, hub_or_offline
from bam_lightning.data.examples import load_examples
from bam_lightning.data.readers import read_texts
from bam_lightning.data.sources import local_path
from bam_lightning.data.task import Task, task_from_config

ROWS = {"text": ["one", "two"], "label": [0, 1]}


def task(path="nyu-mll/glue", **fields) -> TaskConfig:
    fields = {"subset": "rte", "text": ["text"], "head": HeadConfig(label_names=["no", "yes"]), **fields}
    return TaskConfig(path=str(path), **fields)


def read_split(name, config, data, split):
    described = task_from_config(name, config, data)
    table, _, where = described.source.read(name, described, split)
    return table, where


@pytest.fixture
def folder(tmp_path):
    """An empty folder for the task's files, below a data root."""
    path = tmp_path / "data" / "rte"
    path.mkdir(parents=True)
    return path


def read(folder, split="train", **fields) -> dict[str, list]:
    """Return the split's columns, read through ``data.root``."""
    table, where = read_split("rte", task(**fields), DataConfig(root=str(folder.parent)), split)
    assert where.startswith(str(folder))
    return table.to_pydict()


def refusal(kind, folder, split="train") -> str:
    with pytest.raises(kind) as caught:
        read(folder, split)
    return str(caught.value)


def test_parquet_is_read(folder):
    parquet.write_table(pa.table(ROWS), folder / "train.parquet")
    assert read(folder) == ROWS


def test_jsonl_is_read(folder):
    (folder / "train.jsonl").write_text('{"text": "one", "label": 0}\n{"text": "tw\\no", "label": 1}\n')
    assert read(folder) == {"text": ["one", "tw\no"], "label": [0, 1]}


def test_csv_keeps_quotes_commas_and_newlines_inside_quotes(folder):
    (folder / "train.csv").write_text('text,label\n"one, and\nmore",0\n"he said ""no""",1\n')
    assert read(folder) == {"text": ["one, and\nmore", 'he said "no"'], "label": ["0", "1"]}


@pytest.mark.parametrize("texts", [["007", "1e3"], ["true", "false"], ["NA", "null"], ["2020-01-01", "1999-12-31"]])
def test_csv_text_that_looks_like_something_else_stays_text(folder, texts):
    (folder / "train.csv").write_text(f"text,label\n{texts[0]},0\n{texts[1]},1\n")
    assert read(folder) == {"text": texts, "label": ["0", "1"]}


def test_csv_of_several_megabytes_keeps_newlines_inside_quotes(folder):
    text = "a line\nand\nanother\n" * 5  # the file is parsed in blocks of one megabyte
    (folder / "train.csv").write_text("text,label\n" + f'"{text}",1\n' * 30_000)
    assert read(folder) == {"text": [text] * 30_000, "label": ["1"] * 30_000}


def test_tsv_in_which_quotes_do_not_pair_takes_them_as_ordinary_characters(folder):
    (folder / "train.tsv").write_text('text\tlabel\n"one\t0\nsay "two", twice\t1\n')
    assert read(folder) == {"text": ['"one', 'say "two", twice'], "label": ["0", "1"]}


@pytest.mark.parametrize("split", ["train_subset", "train_subset.parquet"])
def test_any_file_name_may_be_a_split_with_and_without_its_ending(folder, split):
    parquet.write_table(pa.table(ROWS), folder / "train_subset.parquet")
    parquet.write_table(pa.table({"text": ["other"], "label": [0]}), folder / "train.parquet")
    assert read(folder, split) == ROWS


def test_shards_are_read_in_their_order_and_a_missing_one_is_named(folder):
    for number, text in enumerate(("one", "two")):
        parquet.write_table(
            pa.table({"text": [text], "label": [number]}), folder / f"train-0000{number}-of-00002.parquet"
        )
    assert read(folder) == ROWS
    (folder / "train-00000-of-00002.parquet").unlink()
    assert refusal(FileNotFoundError, folder) == (
        f"task 'rte': 1 of 2 shards of split 'train' are in {folder}: train-00001-of-00002.parquet; add the others"
    )


@pytest.mark.parametrize("place", ["data", "rte", "."])
def test_the_layouts_of_the_hub_are_found(folder, place):
    (folder / place).mkdir(exist_ok=True)
    parquet.write_table(pa.table(ROWS), folder / place / "train-00000-of-00001.parquet")
    assert read(folder) == ROWS


def compressed(opener, text):
    def write(path):
        with opener(path, "wt") as sink:
            sink.write(text)

    return write


LINES = '{"text": "one", "label": 0}\n{"text": "two", "label": 1}\n'
CSV = "text,label\none,0\ntwo,1\n"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("train.json", lambda path: path.write_text(f"[{LINES.strip().replace(chr(10), ',')}]")),
        ("train.json", lambda path: path.write_text(LINES)),
        ("train.jsonl.gz", compressed(gzip.open, LINES)),
        ("train.json.xz", compressed(lzma.open, LINES)),
        ("train.csv.bz2", compressed(bz2.open, CSV)),
        ("train.CSV", lambda path: path.write_text(CSV)),
        ("train.csv", lambda path: path.write_text(CSV.replace(",", ";"))),
        ("train.csv", lambda path: path.write_text(CSV.replace(",", "\t"))),
        ("train.tsv", lambda path: path.write_text(CSV)),
        ("train.PARQUET", lambda path: parquet.write_table(pa.table(ROWS), path)),
        ("train.csv", lambda path: path.write_bytes(CSV.replace("label", "label,caf\u00e9").replace("\n", ",\n")
                                                    .replace("\u00e9,", "\u00e9").encode("latin-1"))),
    ],
)  # fmt: skip
def test_files_as_people_have_them_are_read(folder, name, write):
    write(folder / name)
    found = read(folder)
    assert found == {"text": ["one", "two"], "label": found["label"]}
    assert [str(label) for label in found["label"]] == ["0", "1"]


def test_a_damaged_compressed_file_is_named(folder):
    compressed(gzip.open, CSV * 100)(folder / "train.csv.gz")
    whole = (folder / "train.csv.gz").read_bytes()
    (folder / "train.csv.gz").write_bytes(whole[:-12])
    assert refusal(ValueError, folder) == (
        f"task 'rte': {folder}/train.csv.gz cannot be read as csv: it cannot be read: Compressed file ended before the "
        "end-of-stream marker was reached"
    )


def test_tsv_of_pandas_loses_its_quotes(folder):
    frame = pd.DataFrame({"text": ['he said "hi"', "a\ttab", "plain"], "label": [0, 1, 1]})
    frame.to_csv(folder / "train.tsv", sep="\t", index=False)
    assert read(folder)["text"] == frame["text"].tolist()
    frame.to_csv(folder / "train.tsv", sep="\t", index=False, quoting=csv.QUOTE_ALL)
    assert read(folder)["text"] == frame["text"].tolist()


def test_quoting_and_delimiter_may_be_given(folder):
    (folder / "train.tsv").write_text('text\tlabel\n"a quoted sentence"\t1\n')
    assert read(folder)["text"] == ["a quoted sentence"]
    assert read(folder, quoting=False)["text"] == ['"a quoted sentence"']
    (folder / "train.csv").write_text(CSV.replace("one", '"one"'))
    assert read(folder, "train.csv", quoting=False) == {"text": ["one", "two"], "label": ["0", "1"]}
    (folder / "train.csv").unlink()
    (folder / "train.tsv").write_text("text,more:label\none:0\n")
    assert read(folder, delimiter=":", text=["text,more"]) == {"text,more": ["one"], "label": ["0"]}


@pytest.mark.parametrize("cell", ["one", "one, two"])
def test_a_wrong_delimiter_is_named(folder, cell):
    (folder / "train.csv").write_text(f"text;label\n{cell};0\n")
    described = Task.from_file(folder / "train.csv", text="text", delimiter=",")
    with pytest.raises(ValueError) as error:
        load_examples("mine", described)
    assert str(error.value).endswith(
        "; delimiter is ',', but the header seems to be separated by ';'; leave it out to have it found"
    )


def test_what_is_in_an_unused_column_does_not_matter(folder):
    (folder / "train.jsonl").write_text(
        '{"text": "one", "label": 0, "more": 1}\n{"text": "two", "label": 1, "more": {"a": [1, "x"]}}\n'
    )
    assert read(folder) == ROWS


def test_split_name_with_a_dot_finds_its_file(folder):
    parquet.write_table(pa.table(ROWS), folder / "train.v2.parquet")
    assert read(folder, "train.v2") == ROWS


def test_ending_in_the_split_name_chooses_among_files(folder):
    parquet.write_table(pa.table(ROWS), folder / "train.parquet")
    (folder / "train.csv").write_text("text,label\nother,1\n")
    assert read(folder, "train.csv") == {"text": ["other"], "label": ["1"]}
    assert read(folder, "train") == ROWS


def test_path_of_the_task_may_be_its_folder(folder):
    parquet.write_table(pa.table(ROWS), folder / "train.parquet")
    table, where = read_split("rte", task(folder), DataConfig(), "train")
    assert table.to_pydict() == ROWS
    assert where == str(folder / "train.parquet")


def test_path_that_is_one_file_does_not_stand_for_every_split(folder):
    path = folder / "train.parquet"
    parquet.write_table(pa.table(ROWS), path)
    assert read_split("rte", task(path), DataConfig(), "train")[0].to_pydict() == ROWS
    with pytest.raises(FileNotFoundError, match="no split 'validation'"):  # else dev scores are those of training rows
        read_split("rte", task(path), DataConfig(), "validation")


def test_task_without_subset_lies_under_its_own_name():
    assert str(local_path("mine", "nyu-mll/glue", None, "/d")) == "/d/mine"
    assert str(local_path("mine", "nyu-mll/glue", "rte", "/d")) == "/d/rte"
    assert local_path("mine", "nyu-mll/glue", "rte", None) is None


def test_missing_folder_is_named(folder):
    folder.rmdir()
    assert refusal(FileNotFoundError, folder) == (
        f"task 'rte': no file or folder {folder}; check data.root and suite.tasks.rte.subset"
    )


def test_missing_file_is_named_with_those_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("claims.csv", "more.tsv", "notes.md"):
        (tmp_path / name).touch()
    for config, remedy in (
        (task("claim.csv", subset=None), "set suite.tasks.rte.path"),
        (task("claim.csv", subset=None, dev_split=None), "set suite.tasks.rte.path"),
    ):
        with pytest.raises(FileNotFoundError) as error:
            read_split("rte", config, DataConfig(), "train")
        assert str(error.value) == (
            f"task 'rte': no file {tmp_path}/claim.csv (paths are relative to {tmp_path}); files there: claims.csv, "
            f"more.tsv; {remedy}; did you mean 'claims.csv'?"
        )


def test_a_file_of_dev_rows_beside_a_single_file_is_not_said_to_be_missing(tmp_path):
    for name in ("0.csv", "validation.csv"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"0\.csv is one file, and there is no split 'train' beside it"):
        read_split("rte", task(tmp_path / "0.csv"), DataConfig(), "train")


def test_a_single_file_is_told_to_give_the_dev_rows(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.csv").touch()
    with pytest.raises(FileNotFoundError) as error:
        read_split("rte", task(tmp_path / "0.csv"), DataConfig(), "train")
    assert str(error.value) == (
        f"task 'rte': 0.csv is one file, and there is no split 'validation' beside it in {tmp_path}; set "
        "suite.tasks.rte.dev_split=null to take the dev rows from it, or name a table beside it with "
        "suite.tasks.rte.train_split=, .dev_split= or .test_split=; tables there: 0.csv, 1.csv, 2.csv, 3.csv, "
        "4.csv and 3 more"
    )


@pytest.mark.parametrize(("path", "near"), [("claim", "claims"), ("Reviews", "reviews.csv"), ("imdb", None)])
def test_a_slip_in_a_local_name_is_said_before_the_hub_is_asked(tmp_path, monkeypatch, path, near):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bam_lightning.data.sources.hub_or_offline", lambda: asked.append(path))
    (tmp_path / "claims").mkdir()
    (tmp_path / "reviews.csv").touch()
    said = f"in {tmp_path}; set suite.tasks.rte.path, .* did you mean '{near}'" if near else "not be read from the hub"
    with pytest.raises(DataError, match=said):
        read_split("rte", task(path, subset=None), DataConfig(), "train")
    assert bool(asked) == (near is None)


def test_clients_of_the_hub_that_are_imported_are_told_that_it_does_not_answer(monkeypatch):
    """They would retry for 23 seconds."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("bam_lightning.config.hub._hub_answers", lambda: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert not hub_or_offline.__wrapped__()
    assert huggingface_hub.constants.is_offline_mode()


@pytest.mark.parametrize(
    ("files", "there"),
    [((), "none"), (("validation.csv", "dev.parquet", "notes.md"), "dev.parquet, notes.md, validation.csv")],
)
def test_missing_split_lists_the_files_there(folder, files, there):
    for name in files:
        (folder / name).touch()
    assert refusal(FileNotFoundError, folder) == (
        f"task 'rte': no split 'train' in {folder} (looked for .csv, .tsv, .json, .jsonl, .parquet); "
        f"files there: {there}; name one with suite.tasks.rte.train_split=, .dev_split= or .test_split="
    )


def test_split_by_a_column_cuts_dev_from_a_single_file(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,who\n" + "".join(f"text {n},{'ab'[n % 2]},{n // 4}\n" for n in range(240)))
    config = TaskConfig(
        path=str(path),
        text=["text"],
        head=HeadConfig("bam_lightning.ClassificationHead", ["a", "b"]),
        test_split=None,
        split={"group": "who"},
    )
    examples = load_examples("mine", task_from_config("mine", config, DataConfig()))
    assert (len(examples.train.keys), len(examples.dev.keys)) == (188, 52)
    config.split = {}
    with pytest.raises(DataError, match=r"set suite.tasks.mine.dev_split=null to take the dev rows from it, or"):
        load_examples("mine", task_from_config("mine", config, DataConfig()))


def test_damaged_parquet_is_named(folder):
    whole = folder / "train.parquet"
    parquet.write_table(pa.table(ROWS), whole)
    whole.write_bytes(whole.read_bytes()[:-4] + b"oops")
    assert refusal(ValueError, folder) == (
        f"task 'rte': {whole} cannot be read as parquet: "
        "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."
    )


def test_csv_row_with_a_column_too_many_is_named(folder):
    (folder / "train.csv").write_text("text,label\none,0\ntwo,1,2\n")
    assert refusal(ValueError, folder) == (
        f"task 'rte': {folder}/train.csv cannot be read as csv: row 1: 3 fields, the header has 2; mend that row"
    )


def test_csv_that_is_not_utf8_is_named(folder):
    (folder / "train.csv").write_bytes(b"text,label\ncaf\xe9,0\n")
    assert refusal(ValueError, folder) == (
        f"task 'rte': {folder}/train.csv cannot be read as csv: "
        "row 0: column 'text' is not UTF-8 text; save the file as UTF-8"
    )


def test_broken_jsonl_is_named(folder):
    (folder / "train.jsonl").write_text('{"text": "one", "label": 0}\n{"text": "two", "lab')
    assert refusal(ValueError, folder).startswith(
        f"task 'rte': {folder}/train.jsonl cannot be read as jsonl: row 1: not JSON: "
    )


ASK_THE_HUB = """
import time
from bam_lightning.config.data_config import DataConfig, HeadConfig, TaskConfig
from bam_lightning.data.task import Task, task_from_config
head = HeadConfig(label_names=["a", "b"])
task = TaskConfig(path="nyu-mll/glue", subset="rte", text=["sentence1"], head=head)
start = time.monotonic()
try:
    described = task_from_config("rte", task, DataConfig())
    described.source.read("rte", described, "train")
except Exception as error:
    print(type(error).__name__, round(time.monotonic() - start, 1), error, sep="|")
"""


@pytest.mark.slow
def test_unreachable_hub_is_said_within_five_seconds_with_the_way_out(tmp_path):
    # a process of its own, since the hub's client reads its environment when it is imported
    places = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}  # port 9 is closed
    environment = {**os.environ, **places}
    environment.pop("HF_HUB_OFFLINE")
    answer = subprocess.run(
        [sys.executable, "-c", ASK_THE_HUB], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    kind, seconds, said = answer.stdout.strip().split("|")
    assert kind == "DataError"
    assert float(seconds) < 30  # five seconds for the answer, and what imports take on a busy machine
    assert said.startswith("task 'rte': nyu-mll/glue (rte, split train) could not be read from the hub (")
    assert said.endswith(
        "), and nyu-mll/glue is no folder here; to use local files give data.root=DIR, holding rte/train.parquet "
        "(or csv, tsv, jsonl), "
        "or suite.tasks.rte.path=DIR"
    )


def test_texts_are_the_lines_that_are_not_empty(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  two  \n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("caf\u00e9", encoding="utf-8")
    assert read_texts(["a.txt", str(tmp_path / "b.txt")]) == ["one", "two", "caf\u00e9"]


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (None, FileNotFoundError, "encoder.pretraining.text: no file my.txt; give text files, one text a line"),
        (b" \n\n", ValueError, "encoder.pretraining.text: my.txt has no text in it"),
        (
            b"caf\xe9 au lait",
            ValueError,
            "encoder.pretraining.text: my.txt is not UTF-8 text: "
            "'utf-8' codec can't decode byte 0xe9 in position 3: invalid continuation byte",
        ),
    ],
)
def test_text_file_that_gives_no_text_is_named(tmp_path, content, kind, said):
    if content is not None:
        (tmp_path / "my.txt").write_bytes(content)
    with pytest.raises(kind) as caught:
        read_texts(["my.txt"])
    assert str(caught.value) == said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt", "spiece.model", "pytorch_model.bin"])
def test_encoder_fingerprint_changes_with_a_byte_of_a_file(tmp_path, name):
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / name).write_bytes(b"some bytes")
    before = encoder_fingerprint(str(tmp_path), None)
    assert encoder_fingerprint(str(tmp_path), None) == before
    (tmp_path / name).write_bytes(b"some bytez")
    assert encoder_fingerprint(str(tmp_path), None) != before


def test_encoder_fingerprint_does_not_depend_on_where_the_folder_lies_nor_on_hidden_files(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(b"{}")
    (tmp_path / "there" / ".cache").mkdir()
    (tmp_path / "there" / ".cache" / "note").write_text("downloaded on a Monday")
    assert encoder_fingerprint(str(tmp_path / "here"), None) == encoder_fingerprint(str(tmp_path / "there"), None)


@pytest.mark.parametrize(("revision", "expected"), [(None, "org/bert@main"), ("abc123", "org/bert@abc123")])
def test_encoder_of_the_hub_is_known_by_name_and_revision(revision, expected, monkeypatch):
    monkeypatch.setattr("bam_lightning.config.hub.hub_or_offline", lambda: True)
    assert encoder_fingerprint("org/bert", revision) == expected


def test_encoder_that_is_neither_here_nor_on_a_reachable_hub_is_named_at_once():
    with pytest.raises(
        ConfigError,
        match=r"^encoder 'org/bert' is no folder here, was not downloaded before, and the hub cannot be reached; give ",
    ):
        encoder_fingerprint("org/bert", None)
