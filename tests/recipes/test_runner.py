"""A whole recipe on local files: what it leaves, what it skips, what it goes on with."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import bam_lightning as bam
from bam_lightning.config.compose import compose, console
from bam_lightning.config.exceptions import BamError, DataPathError, TasksError
from bam_lightning.data import row_cache
from bam_lightning.inference import model_card, predict_file
from bam_lightning.metrics.scores import scores
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.store.run_store import Store
from conftest import sentences
from forked_python import python


@pytest.mark.whole_report
def test_single_multi_from_files_to_results(tiny_job, tmp_path, capsys):
    found = run_recipe(compose(tiny_job), tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept == found
    assert [run["stage"] for run in found["runs"]] == ["single", "single", "student"]
    assert found["runs"][-1]["tasks"] == ["stsb", "rte"]
    student = found["runs"][-1]["metrics"]
    assert found["average"]["student"] == pytest.approx((student["rte"]["accuracy"] + student["stsb"]["spearman"]) / 2)
    assert found["runs"][-1]["steps"] == 10  # 2 epochs of 80 rows by 16
    assert (tmp_path / "out" / "results.png").stat().st_size > 10_000
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(tmp_path / "out")
    assert "teacher (single)" in printed.out
    assert "3 Runs, 0 of them in the store; to train: 240 examples in 20 steps" in printed.err


OWN = {"tags": "micro_f1", "count": "quadratic_kappa"}


def own_tasks(tmp_path: Path) -> list[str]:
    """Write a multi-label and an ordinal task as CSV files with a YAML each; return the words that take them in."""
    tags, grades = ["cat", "dog", "man"], ["none", "one", "more"]
    (tmp_path / "conf" / "task").mkdir(parents=True)
    for task, head, names in (("tags", "multi_label", tags), ("count", "ordinal", grades)):
        (tmp_path / "data" / task).mkdir(parents=True)
        for seed, (split, size) in enumerate({"train": 150, "validation": 50}.items()):
            lines = ["text,label"]
            for text in sentences(size, 20 + seed):
                found = [tag for tag in tags if tag in text.split()]
                lines.append(f"{text},{'|'.join(found) if task == 'tags' else grades[min(len(found), 2)]}")
            (tmp_path / "data" / task / f"{split}.csv").write_text("\n".join(lines))
        (tmp_path / "conf" / "task" / f"{task}.yaml").write_text(
            f"defaults: [schema, /head: {head}, _self_]\npath: mine\ntext: [text]\n"
            f"head: {{label_names: {names}}}\nmetric: {OWN[task]}\n"
        )
    return [f"hydra.searchpath=[file://{tmp_path}/conf]", *(f"+task@suite.tasks.{task}={task}" for task in OWN)]


def dev_rows(tmp_path: Path) -> dict[str, tuple[list[str], list]]:
    """Return task -> dev texts and their gold: sets of names, or names."""
    found = {}
    for task in OWN:
        lines = (tmp_path / "data" / task / "validation.csv").read_text().splitlines()[1:]
        texts, gold = zip(*(line.split(",") for line in lines), strict=True)
        found[task] = (list(texts), [one.split("|") for one in gold] if task == "tags" else list(gold))
    return found


@pytest.mark.release
def test_label_sets_and_grades_from_csv_files_are_taught_distilled_and_scored(tiny_job, tmp_path, capsys):
    epochs = ["optimization.single.epochs=12", "optimization.multi.epochs=12"]
    words = [*tiny_job, *own_tasks(tmp_path), *epochs, "suite.include=[tags,count]"]
    found = run_recipe(compose(words), tmp_path / "out")
    assert [run["stage"] for run in found["runs"]] == ["single", "single", "student"]
    for run in found["runs"]:
        for task, values in run["metrics"].items():
            others = {"tags": {"macro_f1", "exact_match"}, "count": {"accuracy", "spearman"}}[task]
            assert values.keys() == {OWN[task], *others}
            assert all(-1 <= value <= 1 for value in values.values())
            assert values[OWN[task]] > 0.5  # the words decide, and no constant set is right as often
    model = bam.load(found["runs"][-1]["id"], store=tmp_path / "store")
    for task, (rows, gold) in dev_rows(tmp_path).items():
        said = [one.label for one in model.predict(rows, task=task)]
        names = model.tasks[task].label_names
        ids = [[name in one for name in names] if task == "tags" else names.index(one) for one in (*said, *gold)]
        predicted, true = np.split(np.asarray(ids, dtype=np.int64), 2)
        student = found["runs"][-1]["metrics"][task]
        assert scores(predicted, true, OWN[task]) == pytest.approx(student, abs=1e-12)
    assert "| any of cat, dog, man | micro_f1 |" in model_card.make_card(model.info)
    source = str(tmp_path / "data" / "tags" / "validation.csv")
    predict_file.predict_file(
        predict_file.PredictOptions(run=str(model.info.run.path), task=["tags"], input=source, output="out.csv")
    )
    with (tmp_path / "out.csv").open() as stream:
        written = [row["tags.label"] for row in csv.DictReader(stream)]
    assert written == ["|".join(one.label) for one in model.predict(dev_rows(tmp_path)["tags"][0], task="tags")]
    printed = capsys.readouterr().out
    assert re.search(r"tags +│ micro_f1 +│ +\d+ │ +4\d\.\d │", printed)
    assert re.search(r"count +│ quadratic_kappa │ +\d+ │ +0\.0 │", printed)


@pytest.mark.parametrize(
    ("recipe", "seeds"), [("single_multi", 1), pytest.param("ensemble_multi", 3, marks=pytest.mark.release)]
)
def test_teachers_of_label_sets_and_grades_have_a_column_per_output(recipe, seeds, tiny_job, tmp_path):
    more = [*own_tasks(tmp_path), f"recipe={recipe}", "suite.include=[tags,count]", "trainer.max_steps=2"]
    config = compose([*tiny_job, *more])
    store, last = Store(config.paths.store), run_recipe(config, tmp_path / "out")["runs"][-1]["id"]
    for task, outputs in {"tags": 3, "count": 2}.items():
        named = store.manifest(last)["teachers"][task]
        teachers = [named] if isinstance(named, str) else named
        assert len(teachers) == seeds
        for teacher in teachers:
            column = store.read_predictions(teacher, task, "train")
            assert [logits.shape for logits in column.values()] == [(outputs,)] * 150


def test_a_second_call_trains_nothing(tiny_job, tmp_path, capsys, monkeypatch):
    first = run_recipe(compose(tiny_job), tmp_path / "out")
    monkeypatch.setattr("bam_lightning.recipes.fit._fit", None)
    assert run_recipe(compose(tiny_job), tmp_path / "again") == first
    assert "3 Runs, 3 of them in the store" in capsys.readouterr().err


@pytest.mark.release
def test_rows_that_were_kept_train_the_same_runs_and_tokens_are_made_of_their_texts(tiny_job, tmp_path, monkeypatch):
    words = [*tiny_job, "trainer.max_steps=2"]
    plain = [run_recipe(compose([*words, f"data.max_length={n}"]), tmp_path / f"{n}")["runs"] for n in (16, 12)]
    monkeypatch.setattr(row_cache, "WORTH", 0)
    words.append(f"paths.store={tmp_path}/other")
    assert (
        run_recipe(compose([*words, "data.max_length=16"]), tmp_path / "first")["runs"][-1]["id"] == plain[0][-1]["id"]
    )
    other = run_recipe(compose([*words, "data.max_length=12"]), tmp_path / "second")["runs"]  # other tokens, kept rows
    assert [(run["id"], run["metrics"]) for run in other] == [(run["id"], run["metrics"]) for run in plain[1]]


@pytest.mark.release
def test_a_run_that_did_not_teach_predicts_for_a_student_later(tiny_job, tmp_path):
    run_recipe(compose([*tiny_job, "recipe=single"]), tmp_path / "single")
    later = run_recipe(compose([*tiny_job, "paths.store=" + str(tmp_path / "store")]), tmp_path / "later")
    fresh = run_recipe(compose([*tiny_job, f"paths.store={tmp_path}/other"]), tmp_path / "fresh")
    assert [run["metrics"] for run in later["runs"]] == [run["metrics"] for run in fresh["runs"]]


@pytest.fixture
def wide_bert(tmp_path) -> Path:
    """A folder with another random BERT, wider than the tiny one, and a tokenizer of its own."""
    from transformers import BertConfig, BertModel

    from bam_lightning.training.masked_lm import make_tokenizer

    folder = tmp_path / "wide"
    tokenizer = make_tokenizer(["the cat sleeps"], 50)  # spells most words in characters
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.release
def test_a_teacher_with_another_encoder_teaches(tiny_job, wide_bert, tmp_path):
    taught = run_recipe(compose([*tiny_job, "recipe=single", f"encoder.path={wide_bert}"]), tmp_path / "teacher")
    teacher = next(run["id"] for run in taught["runs"] if run["tasks"] == ["rte"])
    config = compose([*tiny_job, "recipe=multi", f"teachers.rte={teacher}", "distillation=teacher_only"])
    found = run_recipe(config, tmp_path / "student")
    store = Store(config.paths.store)
    assert store.manifest(found["runs"][0]["id"])["teachers"] == {"rte": teacher}
    assert len(store.read_predictions(teacher, "rte", "train")) == 40


@pytest.mark.release
def test_a_stage_with_its_own_encoder_teaches_a_smaller_student(tiny_job, wide_bert, tmp_path, capsys):
    own = ["encoder=minilm", f"encoder.path={wide_bert}", "max_length=16", "optimization.batch_size=4"]
    config = compose([*tiny_job, *(f"recipe.stages.single.{word}" for word in own)])
    results = run_recipe(config, tmp_path / "out")
    assert "stage single: encoder minilm, texts cut at 16 tokens" in capsys.readouterr().err
    store = Store(config.paths.store)
    runs = {run["stage"]: store.manifest(run["id"]) for run in results["runs"]}
    teacher, student = runs["single"], runs["student"]
    assert (teacher["spec"]["max_length"], student["spec"]["max_length"]) == (16, 32)
    assert (teacher["spec"]["batch_size"], student["spec"]["batch_size"]) == (4, 16)
    assert teacher["spec"]["encoder"] != student["spec"]["encoder"]
    assert f"encoder minilm, {teacher['parameters']:,} parameters, trained in" in "".join(student["teacher_notes"])
    wide, small = (bam.load(run["id"], store=store.root) for run in (teacher, student))
    assert (wide.info.max_length, small.info.max_length) == (16, 32)
    model = small.export(tmp_path / "exported")
    assert model == 0
    (answer,) = bam.load(tmp_path / "exported").predict([("the cat eats", "it eats")], task="rte")
    assert answer.label in config.suite.tasks["rte"].head.label_names
    again = run_recipe(config, tmp_path / "again")
    assert [run["id"] for run in again["runs"]] == [run["id"] for run in results["runs"]]


def test_a_teacher_that_is_not_there_is_named_at_the_start(tiny_job, tmp_path):
    config = compose([*tiny_job, "recipe=multi", "teachers.rte=0123456789ab"])
    with pytest.raises(ValueError, match=r"^teachers\.rte names Run '0123456789ab', which is not a finished"):
        run_recipe(config, tmp_path / "out")


def test_test_splits_are_predicted_when_asked(tiny_job, tiny_data, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = {"sentence1": ["the cat", "a dog", "it"], "sentence2": ["eats"] * 3, "label": [-1] * 3, "idx": [0, 1, 2]}
    for task in ("rte", "stsb"):
        parquet.write_table(pa.table(rows), tiny_data / task / "test.parquet")
    config = compose([*tiny_job, "recipe=multi", "data.test=true"])
    found = run_recipe(config, tmp_path / "out")
    outputs = Store(config.paths.store).read_predictions(found["runs"][-1]["id"], "rte", "test")
    assert [logits.shape for logits in outputs.values()] == [(2,)] * 3


def start(tiny_job: list[str], out: Path, *more: str) -> subprocess.Popen:
    """Start the command line in a process group of its own."""
    command = [python(), "-m", "bam_lightning.train", *tiny_job, *more, f"hydra.run.dir={out}"]
    with Path(f"{out}.log").open("a") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)


@pytest.mark.slow
def test_a_killed_job_goes_on_and_ends_with_the_same_scores(tiny_job, tmp_path):
    slow = ["optimization.multi.epochs=20", "run.checkpoint_steps=10"]
    whole = start([*tiny_job, f"paths.store={tmp_path}/whole"], tmp_path / "a", *slow)
    assert whole.wait(120) == 0
    broken = start(tiny_job, tmp_path / "b", *slow)
    deadline = time.monotonic() + 90
    while not list((tmp_path / "store" / "building").glob("*/last.ckpt")) or not _student_begun(tmp_path / "store"):
        assert time.monotonic() < deadline
        assert broken.poll() is None
        time.sleep(0.02)
    os.killpg(broken.pid, signal.SIGKILL)
    broken.wait()
    again = start(tiny_job, tmp_path / "b", *slow)
    assert again.wait(120) == 0
    assert "goes on" in (tmp_path / "b.log").read_text()
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in "ab")
    assert [run["metrics"] for run in one["runs"]] == [run["metrics"] for run in two["runs"]]
    weights = [
        (tmp_path / store / "runs" / one["runs"][-1]["id"] / "model.safetensors").read_bytes()
        for store in ("whole", "store")
    ]
    assert weights[0] == weights[1]


def _student_begun(store: Path) -> bool:
    return len(list((store / "runs").iterdir())) == 2


def test_a_teacher_of_another_label_order_is_refused(tiny_job, tmp_path):
    taught = run_recipe(compose([*tiny_job, "recipe=single", "suite.include=[rte]"]), tmp_path / "teacher")
    swapped = "suite.tasks.rte.head.label_names=[not_entailment,entailment]"
    config = compose([*tiny_job, "recipe=multi", f"teachers.rte={taught['runs'][0]['id']}", swapped])
    with pytest.raises(ValueError, match=r"was trained with head\.label_names \['entailment', 'not_entailment'\]"):
        run_recipe(config, tmp_path / "out")


def test_a_test_split_that_is_not_there_is_said_before_training(tiny_job, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^task 'stsb': no split 'test' in "):
        run_recipe(compose([*tiny_job, "data.test=true"]), tmp_path / "out")
    assert not list((tmp_path / "store" / "runs").iterdir())


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.compile=true", r"^run\.compile=true is for GPUs; on a CPU layers are fused already, so leave it out$"),
        ("trainer.accelerator=gpu", r"^trainer\.accelerator=gpu, but torch sees no CUDA device; use trainer=auto"),
        (
            "suite.tasks.rte.head._target_=bam_lightning.models.heads.ClasificationHead",
            "did you mean 'ClassificationHead'",
        ),
        ("sampler.exponent=500", r"exponent must be a number from 0 \(uniform\) to 1 \(proportional\), got 500$"),
        (
            "data.max_length=99",
            r"^data\.max_length: texts are to have up to 99 tokens, but the encoder has 64 positions$",
        ),
    ],
)
def test_what_would_stop_a_later_run_is_said_before_the_first(override, expected, tiny_job, tmp_path):
    with pytest.raises(BamError, match=expected):
        run_recipe(compose([*tiny_job, override]), tmp_path / "out")
    assert not list((tmp_path / "store" / "runs").iterdir())


def test_an_encoder_without_its_tokenizer_is_refused(tiny_job, tiny_bert, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_bert / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=rf"^encoder\.path: no tokenizer in {bare}; put one of tokenizer\.json"):
        run_recipe(compose([*tiny_job, f"encoder.path={bare}"]), tmp_path / "out")


def test_a_student_with_fewer_steps_than_its_teachers_is_said(tiny_job, tmp_path):
    from bam_lightning.recipes.planner import plan_runs
    from bam_lightning.recipes.runner import load_data, warn_undertrained_students

    few = compose([*tiny_job, "recipe.stages.student.optimization.min_steps=3", "optimization.multi.epochs=0.1"])
    runs = plan_runs(few, load_data(few)[2])
    (line,) = warn_undertrained_students(runs, few)
    assert line == (
        "student has 3 optimizer steps, a teacher of its 5; "
        "recipe.stages.student.optimization.min_steps=5 gives it as many"
    )
    enough = compose([*tiny_job, "recipe.stages.student.optimization.min_steps=5"])
    assert warn_undertrained_students(plan_runs(enough, load_data(enough)[2]), enough) == []


def test_what_is_wrong_in_the_files_of_several_tasks_is_said_at_once(tiny_job, tiny_data, tmp_path, capsys):
    labels = (tiny_data / "stsb" / "train.csv").read_text().splitlines()
    (tiny_data / "stsb" / "train.csv").write_text("\n".join([*labels, '"a cat runs","a dog eats",high,77']) + "\n")
    (tiny_data / "rte" / "train.parquet").write_bytes(b"no Parquet")
    with pytest.raises(TasksError) as caught:
        run_recipe(compose(tiny_job), tmp_path / "out")
    assert [str(error)[:10] for error in caught.value.errors] == ["task 'stsb", "task 'rte'"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert console(lambda: run_recipe(compose(tiny_job), tmp_path / "out") and 0) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"error: {error}" for error in caught.value.errors]
    assert "'high'" in lines[0]
    assert "train.parquet" in lines[1]


def test_one_folder_that_is_not_there_is_said_once(tiny_job, tmp_path):
    with pytest.raises(DataPathError, match=r"^task 'stsb'"):
        run_recipe(compose([*tiny_job, "data.root=nowhere"]), tmp_path / "out")
