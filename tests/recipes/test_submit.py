"""A GLUE submission: file names, words, rows and order; on the real test sets where they are."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from bam_lightning.config.compose import compose
from bam_lightning.inference import glue_submission
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.recipes.submit import SubmitOptions, best_runs, job
from bam_lightning.store.run_store import Store
from fake_store import FakeStore
from forked_python import python

GOLDEN = Path(__file__).parents[1] / "golden" / "submission"
ELEVEN = "CoLA SST-2 MRPC STS-B QQP MNLI-m MNLI-mm QNLI RTE WNLI AX".split()


def call(*arguments: str) -> subprocess.CompletedProcess:
    """Run ``bam submit``."""
    return subprocess.run(
        [python(), "-m", "bam_lightning.cli", "submit", *arguments], capture_output=True, text=True, timeout=300
    )


def test_the_eleven_files_of_the_leaderboard():
    assert [file.name for file in glue_submission.FILES.values()] == [f"{name}.tsv" for name in ELEVEN]
    worded = {task for task, file in glue_submission.FILES.items() if file.words}
    assert worded == {"mnli", "mnli_mm", "qnli", "rte", "ax"}


def test_the_files_are_those_of_the_golden_folder(tmp_path):
    words = {
        "cola": glue_submission.class_words("cola", [0, 1, 1], ["unacceptable", "acceptable"]),
        "stsb": glue_submission.score_words([-0.3, 2.5, 5.04]),
        "mnli": glue_submission.class_words("mnli", [2, 0, 1], ["entailment", "neutral", "contradiction"]),
        "ax": glue_submission.class_words("ax", [2], ["entailment", "neutral", "contradiction"]),
    }
    glue_submission.write_zip(tmp_path / "s.zip", words)
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert sorted(archive.namelist()) == sorted(path.name for path in GOLDEN.glob("*.tsv"))
        for path in GOLDEN.glob("*.tsv"):
            assert archive.read(path.name) == path.read_bytes()


def test_the_zip_has_the_same_bytes_every_time(tmp_path):
    for name in ("a.zip", "b.zip"):
        glue_submission.write_zip(tmp_path / name, {"wnli": ["0"] * 146})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_test_set_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"^the test set of 'rte' has 3 rows, the official one has 3,000;"):
        glue_submission.check_rows("rte", 3)


@pytest.fixture
def trained(tiny_job, tiny_data, tmp_path, monkeypatch) -> tuple[str, list[str]]:
    """A multi-task Run of rte and stsb, its test sets of 4 rows, which are taken for the official size."""
    rows = {"sentence1": ["the cat", "a dog", "it", "who"], "sentence2": ["eats"] * 4, "label": [-1] * 4}
    for task in ("rte", "stsb"):
        parquet.write_table(pa.table({**rows, "idx": range(4)}), tiny_data / task / "test.parquet")
        monkeypatch.setitem(glue_submission.FILES, task, glue_submission.FILES[task]._replace(rows=4))
    found = run_recipe(compose([*tiny_job, "recipe=multi"]), tmp_path / "out")
    return found["runs"][-1]["id"], tiny_job


def test_a_run_that_has_not_predicted_the_test_sets_does_it_now(trained, tmp_path, capsys):
    run_id, words = trained
    job(SubmitOptions(run=[run_id], partial=True, output=f"{tmp_path}/s.zip"), words)
    said = capsys.readouterr()
    assert said.out.startswith("3 of 11 files: ")
    assert "missing: QQP.tsv (test set 'qqp': none of the Runs" in said.err
    assert "missing: AX.tsv (test set 'ax': none of the Runs" in said.err
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert sorted(archive.namelist()) == ["RTE.tsv", "STS-B.tsv", "WNLI.tsv"]
        lines = archive.read("RTE.tsv").decode().splitlines()
        assert [line.split("\t")[0] for line in lines] == ["index", "0", "1", "2", "3"]
        assert {line.split("\t")[1] for line in lines[1:]} <= {"entailment", "not_entailment"}
        assert archive.read("WNLI.tsv").decode().splitlines() == ["index\tprediction", *(f"{i}\t0" for i in range(146))]
    kept = Store(f"{tmp_path}/store").read_predictions(run_id, "rte", "test")
    assert len(kept) == 4


def test_glue_is_what_is_submitted_unless_a_scale_is_given(trained, tmp_path, capsys):
    run_id, words = trained
    own = [word for word in words if word.startswith(("data.root=", "data.max_length=", "paths.store=", "trainer."))]
    job(SubmitOptions(run=[run_id], partial=True, output=f"{tmp_path}/s.zip"), own)
    assert capsys.readouterr().out.startswith("3 of 11 files: ")


def test_without_partial_the_first_missing_set_is_an_error(trained, tmp_path):
    run_id, words = trained
    with pytest.raises(ValueError, match=r"^test set 'cola': none of the Runs .* has a head of 'cola'$"):
        job(SubmitOptions(run=[run_id], output=f"{tmp_path}/s.zip"), words)
    assert not (tmp_path / "s.zip").exists()


def test_a_row_has_the_word_of_its_own_prediction(trained, tiny_data, tmp_path):
    from bam_lightning.data.examples import load_unlabelled
    from bam_lightning.data.task import task_from_config

    run_id, words = trained
    job(SubmitOptions(run=[run_id], partial=True, output=f"{tmp_path}/s.zip"), words)
    config = compose(words)
    rows = load_unlabelled("rte", task_from_config("rte", config.suite.tasks["rte"], config.data), "test")
    kept = Store(f"{tmp_path}/store").read_predictions(run_id, "rte", "test")
    names = ["entailment", "not_entailment"]
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        lines = archive.read("RTE.tsv").decode().splitlines()[1:]
        assert lines == [f"{i}\t{names[kept[key].argmax()]}" for i, key in enumerate(rows.keys)]
        scores = [float(line.split("\t")[1]) for line in archive.read("STS-B.tsv").decode().splitlines()[1:]]
    assert all(0 <= score <= 5 for score in scores)


def test_a_file_out_of_order_is_refused(trained, tiny_data, tmp_path):
    run_id, words = trained
    path = tiny_data / "rte" / "test.parquet"
    parquet.write_table(parquet.read_table(path).take([0, 2, 1, 3]), path)
    with pytest.raises(ValueError, match=r"id 1 follows 2 in row 2, so the rows are not in their official order"):
        job(SubmitOptions(run=[run_id], partial=True, output=f"{tmp_path}/s.zip"), words)


def test_partial_does_not_excuse_a_run_that_is_not_there(trained, tmp_path):
    _, words = trained
    with pytest.raises(ValueError, match=r"^no Run '012345670123' in .*; `bam runs` lists them$"):
        job(SubmitOptions(run=["012345670123"], partial=True, output=f"{tmp_path}/s.zip"), words)
    assert not (tmp_path / "s.zip").exists()


def test_a_head_with_other_labels_is_refused(trained, tmp_path):
    run_id, words = trained
    swapped = "suite.tasks.rte.head.label_names=[not_entailment,entailment]"
    with pytest.raises(ValueError, match=rf"^run: Run {run_id} was trained with head\.label_names \['entailment', "):
        job(SubmitOptions(run=[run_id], partial=True, output=f"{tmp_path}/s.zip"), [*words, swapped])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "error: give either --run RUN_ID, as in the Plan of the job that trained it, or --best-of EXPERIMENT"),
        (["--run=x", "--best-of=y"], "error: give either --run RUN_ID, as in the Plan"),
        (["run=x"], "error: `run=x` is now `--run x`; see `bam submit --help`"),
        (["--run=x", "seeed=1"], "error: no option 'seeed'; did you mean 'seed'?"),
        (["--run=x", "paths.store=nowhere"], "error: no store at "),
    ],
)
def test_a_bad_command_line_is_one_message(words, expected):
    done = call(*words)
    assert done.returncode == (2 if "bam submit --help" in expected else 1)
    assert done.stderr.splitlines()[-1].startswith(expected)
    assert "Traceback" not in done.stderr


def best(store: FakeStore, experiment: str) -> list[tuple[str, tuple[str, ...], float, int]]:
    """Return the best Runs of an experiment of the demo scale."""
    config = SimpleNamespace(scale="demo", fidelity="paper")
    return [
        (run.id, run.tasks, round(run.score, 4), run.n_candidates) for run in best_runs(store.store, experiment, config)
    ]


def test_of_multi_task_runs_the_one_with_the_highest_average_is_submitted(tmp_path):
    store = FakeStore(tmp_path)
    store.add("multi", 0, {"rte": 0.9, "wnli": 0.1}, average=["rte"])
    store.add("multi", 1, {"rte": 0.8, "wnli": 0.99}, average=["rte"])  # WNLI is no reason to be chosen
    store.add("multi", 2, {"rte": 0.95, "wnli": 0.1}, average=["rte"], done=False)
    store.add("multi", 3, {"rte": 0.99, "wnli": 0.1}, average=["rte"], scale="small")
    assert best(store, "multi") == [("multi-1", ("rte", "wnli"), 0.9, 2)]


def test_of_single_task_runs_each_task_has_its_own_best(tmp_path):
    store = FakeStore(tmp_path)
    for seed, (rte, cola) in enumerate([(0.6, 0.5), (0.7, 0.2), (0.65, 0.3)]):
        ids = [f"rte-{seed}", f"cola-{seed}"]
        store.add_run(ids[0], seed, {"rte": {"accuracy": rte}})
        store.add_run(ids[1], seed, {"cola": {"matthews": cola}})
        metrics = {"rte": {"accuracy": rte}, "cola": {"matthews": cola}}
        store.add("single", seed, metrics, done=False, stages={"single": ids})
    assert best(store, "single") == [("rte-1", ("rte",), 0.7, 3), ("cola-0", ("cola",), 0.5, 3)]


def test_the_best_of_jobs_that_cannot_be_compared_is_refused(tmp_path):
    store = FakeStore(tmp_path)
    store.add("multi", 0, {"rte": 0.9})
    store.add("multi", 1, {"rte": 0.8}, data={"rte": "other rows"})
    with pytest.raises(ValueError, match=r"^best-of: the jobs of experiment 'multi' were scored on different data of "):
        best(store, "multi")
    with pytest.raises(ValueError, match=r"no finished job of experiment 'mutli' .*; finished: multi \(demo, paper\)$"):
        best(store, "mutli")


def test_the_best_run_of_an_experiment_is_submitted(trained, tmp_path, capsys):
    run_id, words = trained
    job(SubmitOptions(best_of="multi", partial=True, output=f"{tmp_path}/s.zip"), words)
    said = capsys.readouterr()
    assert f"best of 1: Run {run_id} (" in said.err
    assert said.out.startswith("3 of 11 files: ")


@pytest.mark.skipif("BAM_GLUE_DIR" not in os.environ, reason="BAM_GLUE_DIR names no folder of GLUE")
def test_real_test_sets_have_the_official_sizes():
    config = compose(["scale=small", f"data.root={os.environ['BAM_GLUE_DIR']}"])
    from bam_lightning.data.examples import load_unlabelled
    from bam_lightning.data.task import task_from_config

    for name in ("cola", "sst2", "mrpc", "stsb", "qnli", "rte", "ax"):
        task = config.suite.tasks[name]
        assert (
            len(load_unlabelled(name, task_from_config(name, task, config.data), task.test_split).keys)
            == glue_submission.FILES[name].rows
        )
    task = config.suite.tasks["mnli_mm"]
    with pytest.raises(FileNotFoundError, match=r"^task 'mnli_mm': no split 'test_mismatched' in "):
        load_unlabelled("mnli_mm", task_from_config("mnli_mm", task, config.data), task.test_split)
