"""The command that scores a file: same numbers as in Python, same order, no row lost, nothing overwritten."""

import csv
import gzip
import json
import resource
import subprocess
from io import BytesIO, TextIOWrapper

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import bam_lightning as bam
from bam_lightning.config.exceptions import DataError
from bam_lightning.inference.model_info import find_model, read_model_info
from bam_lightning.inference.predict_file import PredictOptions, _plan_tasks, predict_file
from bam_lightning.store.atomic_io import WriteError
from conftest import sentences
from forked_python import python

PAIRS = list(zip(sentences(60, 1), sentences(60, 2, longest=20), strict=True))


@pytest.fixture
def command(trained):
    """Call the command, with the student of three tiny tasks."""

    def call(**fields):
        return predict_file(PredictOptions(run=trained.id, store=str(trained.store), **fields))

    return call


@pytest.fixture
def model(trained):
    return bam.load(trained.id, store=trained.store)


def write_pairs(path, rows=PAIRS):
    if path.suffix == ".jsonl":
        path.write_text(
            "\n".join(json.dumps({"n": n, "sentence1": a, "sentence2": b}) for n, (a, b) in enumerate(rows))
        )
        return path
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(["n", "sentence1", "sentence2"])
        writer.writerows([n, *row] for n, row in enumerate(rows))
    return path


def read_rows(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("source", ["in.csv", "in.tsv", "in.jsonl"])
@pytest.mark.parametrize("target", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_every_format_gives_the_numbers_of_the_python_api_in_order(command, model, tmp_path, source, target):
    write_pairs(tmp_path / source)
    assert command(task=["rte", "stsb"], input=f"{source}", output=f"{target}") == 0
    expected = model.predict(PAIRS, task=["rte", "stsb"])
    found = read_rows(tmp_path / target)
    assert [int(row["n"]) for row in found] == list(range(60))
    assert [(row["sentence1"], row["sentence2"]) for row in found] == PAIRS
    assert [row["rte.label"] for row in found] == [one.label for one in expected["rte"]]
    shares = [[float(row[f"rte.{name}"]) for name in ("entailment", "not_entailment")] for row in found]
    np.testing.assert_allclose(shares, [list(one.probabilities.values()) for one in expected["rte"]], atol=1e-6)
    scores = [float(row["stsb.score"]) for row in found]
    np.testing.assert_allclose(scores, [one.label for one in expected["stsb"]], atol=1e-6)
    numbers = [*scores, *(share for row in shares for share in row)]
    assert [repr(number) for number in numbers] == [str(np.float32(number)) for number in numbers]  # no digit too many


def test_parquet_in_keeps_its_columns(command, tmp_path):
    write_pairs(tmp_path / "in.csv")
    command(task=["rte"], input="in.csv", output="mid.parquet")
    assert command(task=["stsb"], input="mid.parquet", output="out.parquet") == 0
    columns = parquet.read_schema(tmp_path / "out.parquet").names
    assert columns[:3] == ["n", "sentence1", "sentence2"]
    assert {"rte.label", "stsb.score"} <= set(columns)


def test_rows_that_cannot_be_scored_are_named_and_do_not_stop_the_rest(command, model, tmp_path, capsys):
    rows = list(PAIRS)
    rows[3], rows[7] = ("", "a cat"), ("a cat", "   ")
    path = write_pairs(tmp_path / "in.csv", rows)
    lines = path.read_bytes().split(b"\r\n")
    lines[11] = b"10,only one"
    lines[13] = b"12,a \xff cat,dog"
    path.write_bytes(b"\r\n".join(lines))
    assert command(task=["rte"], input="in.csv", output="out.jsonl") == 0
    found = read_rows(tmp_path / "out.jsonl")
    faults = {number: row["prediction_error"] for number, row in enumerate(found) if "prediction_error" in row}
    assert faults == {
        3: "sentence1 is empty",
        7: "sentence2 is empty",
        10: "2 fields, the header has 3",
        12: "sentence1 is not UTF-8 text",
    }
    assert all(("rte.label" in row) == (number not in faults) for number, row in enumerate(found))
    sound = [row for number, row in enumerate(PAIRS) if number not in faults]
    labels = [one.label for one in model.predict(sound, task="rte")]
    assert [row["rte.label"] for row in found if "rte.label" in row] == labels
    said = capsys.readouterr().err
    assert said.startswith(f"60 rows, 56 scored: {tmp_path}/out.jsonl\n  row 3: sentence1 is empty\n")
    assert said.endswith("  and 1 more; see column prediction_error\n")


def test_without_a_task_all_whose_columns_are_there_are_asked(command, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"sentence": "a good cat"}\n')
    assert command(input="in.jsonl", output="out.jsonl") == 0
    (row,) = read_rows(tmp_path / "out.jsonl")
    assert list(row) == ["sentence", "sst2.label", "sst2.negative", "sst2.positive"]


def test_the_suggested_command_can_be_pasted(trained, tmp_path):
    info = read_model_info(find_model(trained.id, str(trained.store)))
    info.tasks["sst2"] = info.tasks["sst2"]._replace(columns=("the text",))
    with pytest.raises(DataError, match=r"as in --task sst2 --column 'the text'$"):
        _plan_tasks(info, PredictOptions(run="", task=["sst2"], input="in.csv"), ["a"], {})


def test_other_columns_can_be_read(command, model, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"left": "a good cat", "right": "a dog"}\n{"left": "a"}\n')
    assert command(task=["stsb"], columns=["left", "right"], input="in.jsonl", output="out.jsonl") == 0
    rows = read_rows(tmp_path / "out.jsonl")
    assert rows[0]["stsb.score"] == pytest.approx(model.predict([("a good cat", "a dog")], task="stsb")[0].label)
    assert rows[1]["prediction_error"] == "right has no value"


def test_standard_input_and_output_make_a_pipe(trained):
    words = [f"--run={trained.id}", f"--store={trained.store}", "--task=sst2", "--input-format=jsonl"]
    done = subprocess.run(
        [python(), "-m", "bam_lightning.cli", "predict", *words],
        input='{"sentence": "a good cat"}\nnonsense\n',
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["sst2.label"] in ("negative", "positive")
    assert second["prediction_error"].startswith("not JSON: ")
    assert done.stderr.startswith("2 rows, 1 scored\n  row 1: not JSON: ")


def test_no_row_scored_is_a_failure(command, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"sentence": ""}\n')
    assert command(task=["sst2"], input="in.jsonl", output="out.jsonl") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"task": ["rte"], "input": "none.csv"},
         "input: no file {tmp}/none.csv (paths are relative to {tmp}); files there: in.csv, there.csv; set --input"),
        ({"task": ["rte"], "input": "in.csv", "output": "in.csv"}, "output: in.csv is the input; give another file"),
        ({"task": ["rte"], "input": "in.csv", "output": "there.csv"},
         "output: there.csv exists; give another file, or --overwrite"),
        ({"task": ["rte"], "input": "in.csv", "output": "no/such/out.csv"}, "output: no folder no/such"),
        ({"task": ["rte"], "input": "in.csv", "output": "out.xlsx"},
         "output: 'out.xlsx' is a spreadsheet; name a .csv file"),
        ({"task": ["rtee"], "input": "in.csv"}, "task names 'rtee'; choices: sst2, stsb, rte; did you mean 'rte'?"),
        ({"task": ["sst2"], "input": "in.csv"},
         "input: task 'sst2' reads sentence; the file's columns: n, sentence1, sentence2; "
         "name those to read, as in --task sst2 --column sentence"),
        ({"task": ["rte"], "columns": ["sentence1"], "input": "in.csv"},
         "--column names 1, but task 'rte' reads 2: sentence1, sentence2"),
        ({"input": "there.csv"}, "input: no task's columns are in it; the file's columns: rte.label, x; "
         "name those to read, as in --task sst2 --column sentence"),
        ({"task": ["sst2"], "columns": ["x y; $z"], "input": "in.csv"}, "input: no column 'x y; $z', which --column "
         "names; the file's columns: n, sentence1, sentence2"),
        ({"task": ["rte"], "columns": ["x", "x"], "input": "there.csv"},
         "input has a column 'rte.label', which the output needs; rename it"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_anything_is_written(command, tmp_path, words, message):
    write_pairs(tmp_path / "in.csv")
    (tmp_path / "there.csv").write_text("rte.label,x\na,b\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises((ValueError, OSError)) as error:
        command(**words)
    assert str(error.value) == message.replace("{tmp}", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_was_done_before_a_failure_is_kept_and_the_output_is_not(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bam_lightning.data.readers.CHUNK_ROWS", 20)
    monkeypatch.setattr("bam_lightning.inference.predict_file.chunks", lambda records: bam_chunks(records, 20))
    calls = []

    def logits(self, rows, tasks):
        calls.append(len(rows))
        if len(calls) == 3:
            raise MemoryError("no more")
        return {task: np.zeros((len(rows), 2), np.float32) for task in tasks}

    monkeypatch.setattr("bam_lightning.inference.predictor.Predictor.logits", logits)
    write_pairs(tmp_path / "in.csv")
    with pytest.raises(MemoryError):
        command(task=["rte"], input="in.csv", output="out.csv")
    assert not (tmp_path / "out.csv").exists()
    (part,) = tmp_path.glob("out.csv.*.part")
    assert len(part.read_text().splitlines()) == 41
    assert capsys.readouterr().err == f"stopped; the rows scored so far are in {part.name}\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python closes such a file late
@pytest.mark.parametrize("target", ["out.csv", "out.jsonl"])
def test_a_full_disk_is_one_sentence_with_the_file(command, tmp_path, monkeypatch, target):
    write_pairs(tmp_path / "in.csv")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(WriteError, match=rf"^cannot write .*/{target}.*part \(File too large\): .*make room$"):
            command(task=["rte"], input="in.csv", output=str(tmp_path / target))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / target).exists()


def bam_chunks(records, size):
    from bam_lightning.data.readers import chunks

    return chunks(records, size)


@pytest.fixture
def small_chunks(monkeypatch):
    """Read 20 rows at a time."""
    monkeypatch.setattr("bam_lightning.inference.predict_file.chunks", lambda records: bam_chunks(records, 20))


@pytest.mark.parametrize("target", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_column_that_appears_late_is_kept(command, tmp_path, small_chunks, target):
    rows = [{"sentence": text, **({"ticket": n, "note": f"note {n}"} if n > 40 else {})}
            for n, (text, _) in enumerate(PAIRS)]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command(task=["sst2"], input=f"{tmp_path}/in.jsonl", output=f"{tmp_path}/{target}")
    found = read_rows(tmp_path / target)
    assert [row.get("note") or None for row in found] == [row.get("note") for row in rows]
    assert [str(row.get("ticket") or "") for row in found] == [str(row.get("ticket", "")) for row in rows]


def test_parquet_keeps_the_types_of_its_input(command, tmp_path, small_chunks):
    table = pa.table(
        {
            "sentence": [text for text, _ in PAIRS],
            "late": pa.array([None] * 50 + [1] * 10, pa.int64()),
            "small": pa.array(range(60), pa.int8()),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    command(task=["sst2"], input=f"{tmp_path}/in.parquet", output=f"{tmp_path}/out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet").select(table.column_names) == table


def test_a_stream_says_ahead_that_late_columns_are_left_out(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b'{"sentence": "the cat"}\n')))
    command(task=["sst2"], input_format="jsonl", output=f"{tmp_path}/out.csv")
    assert capsys.readouterr().err.splitlines()[0] == (
        "standard input cannot be read ahead: a column that first appears after 4,096 rows will be left out; "
        "--output-format jsonl keeps all"
    )


def test_training_files_can_be_predicted_as_they_are(command, tmp_path):
    """A compressed file with semicolons, and an array of JSON."""
    with gzip.open(tmp_path / "in.CSV.gz", "wt") as stream:
        stream.write("sentence;n\nthe cat;1\n")
    (tmp_path / "in.json").write_text('[{"sentence": "the cat", "n": 1}]')
    found = []
    for name in ("in.CSV.gz", "in.json"):
        command(task=["sst2"], input=f"{tmp_path}/{name}", output=f"{tmp_path}/{name}.jsonl")
        (row,) = read_rows(tmp_path / f"{name}.jsonl")
        found.append(row)
    assert found[0] == {**found[1], "n": "1"}


def test_csv_keeps_the_separator_and_the_byte_order_mark_of_its_input(command, tmp_path):
    """As spreadsheets write them in much of Europe."""
    (tmp_path / "in.csv").write_bytes('\ufeff"Name, first";sentence\nÄnn;"the ""cat"";\neats"\n'.encode())
    for target in ("out.csv", "out.tsv"):
        command(task=["sst2"], input=f"{tmp_path}/in.csv", output=f"{tmp_path}/{target}")
    assert (tmp_path / "out.csv").read_bytes().startswith("\ufeffName, first;sentence;".encode())
    assert (tmp_path / "out.tsv").read_bytes().startswith(b"Name, first\tsentence\t")
    for target, separator in (("out.csv", ";"), ("out.tsv", "\t")):
        (text,) = pd.read_csv(tmp_path / target, sep=separator)["sentence"]
        assert text == 'the "cat";\neats'


def test_a_delimiter_may_be_given_and_a_wrong_one_is_named(command, tmp_path):
    (tmp_path / "in.csv").write_text("sentence:id\nthe cat:1\n")
    command(task=["sst2"], input=f"{tmp_path}/in.csv", output=f"{tmp_path}/out.jsonl", delimiter=":")
    assert read_rows(tmp_path / "out.jsonl")[0]["id"] == "1"
    (tmp_path / "in.csv").write_text("sentence;id\nthe cat;1\n")
    with pytest.raises(ValueError, match="--delimiter is ',', but the header seems to be separated by ';'; leave it"):
        command(task=["sst2"], input=f"{tmp_path}/in.csv", delimiter=",")
    with pytest.raises(ValueError, match="--delimiter must be one character, got ';;'"):
        command(task=["sst2"], input=f"{tmp_path}/in.csv", delimiter=";;")


def test_a_header_that_is_not_utf8_is_named(command, tmp_path, capsys):
    (tmp_path / "in.csv").write_bytes("Prüfung,Satz\na,b\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"columns: .*, Satz; the header is not UTF-8 text: save the file as UTF-8$"):
        command(task=["sst2"], input="in.csv")
