"""Bad values are refused before anything heavy is imported, naming key, value and choices."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bam_lightning.config.compose import compose
from bam_lightning.config.hydra_errors import format_error

BAD = [
    ("seeed=1", "no option 'seeed'; did you mean 'seed'?"),
    (
        "optimization.learning_rat=1",
        "no option 'optimization.learning_rat'; did you mean 'optimization.learning_rate'?",
    ),
    ("++fo.bar=1", "no option 'fo'"),
    ("distillation.scedule=1", "no option 'distillation.scedule'; did you mean 'distillation.schedule'?"),
    (
        "distillation.schedule.start=0.5",
        "no option 'distillation.schedule.start' is set; add it with a plus, +distillation.schedule.start=VALUE",
    ),
    ("scale=papr", "no scale 'papr'; choices: base, demo, paper, small; did you mean 'paper'?"),
    (
        "recipe=nope",
        "no recipe 'nope'; choices: ensemble_multi, multi, multi_finetune, multi_multi, pretrain, single, "
        "single_multi, single_multi_finetune, single_multi_out_of_fold, single_multi_single_multi, single_single, "
        "stilts; files of your own need 'hydra.searchpath=[file://DIR]', as DIR/recipe/NAME.yaml",
    ),
    ("seed=x", "Error merging override seed=x: Value 'x' of type 'str' could not be converted to Integer"),
    ("seed=-1", "seed must be at least 0, got -1"),
    ("teacher_seed=-2", "teacher_seed must be at least 0, got -2"),
    ("optimization.learning_rate=-1", "optimization.learning_rate must be above 0, got -1.0"),
    ("optimization.multi.learning_rate=null", "optimization.multi.learning_rate is missing; give a number"),
    ("optimization.single.layerwise_decay=1.5", "optimization.single.layerwise_decay must be in (0, 1], got 1.5"),
    ("optimization.batch_size=0", "optimization.batch_size must be at least 1, got 0"),
    ("optimization.epochs=0", "optimization.epochs must be above 0, got 0.0"),
    ("optimization.warmup=1", "optimization.warmup must be in [0, 1), got 1.0"),
    ("optimization.clip_norm=0", "optimization.clip_norm must be above 0, got 0.0"),
    ("data.max_length=4", "data.max_length must be at least 8, got 4"),
    ("data.workers=-1", "data.workers must be at least 0, got -1"),
    ("trainer.accelerator=tpu", "trainer.accelerator names 'tpu'; choices: auto, cpu, gpu; did you mean 'gpu'?"),
    ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps must be at least 1, got 0"),
    ("trainer.devices=0", "trainer.devices must be at least 1, got 0"),
    ("trainer.num_nodes=0", "trainer.num_nodes must be at least 1, got 0"),
    ("trainer.strategy=dp", "trainer.strategy names 'dp'; choices: auto, ddp, fsdp; did you mean 'ddp'?"),
    ("trainer.max_steps=0", "trainer.max_steps must be at least 1, got 0"),
    ("trainer.precision=fp8", "trainer.precision names 'fp8'; choices: auto, bf16-mixed, 16-mixed, 32-true, 64-true"),
    (
        "suite.include=[sentimet]",
        "suite.include names 'sentimet'; choices: acceptability, sentiment, paraphrase, similarity, "
        "question_paraphrase, entailment, answer_entailment, small_entailment; did you mean 'sentiment'?",
    ),
    (
        "suite.tasks.sentiment.metric=spearman",
        "suite.tasks.sentiment.metric 'spearman' does not fit bam_lightning.ClassificationHead: use accuracy, "
        "matthews, f1 or macro_f1",
    ),
    (
        "suite.tasks.similarity.metric=accuracy",
        "suite.tasks.similarity.metric 'accuracy' does not fit bam_lightning.RegressionHead: use spearman or pearson",
    ),
    (
        "suite.tasks.sentiment.head._target_=bam_lightning.MultiLabelHead",
        "suite.tasks.sentiment.metric 'accuracy' does not fit bam_lightning.MultiLabelHead: "
        "use micro_f1, macro_f1 or exact_match",
    ),
    (
        "suite.tasks.acceptability.head._target_=bam_lightning.OrdinalHead",
        "suite.tasks.acceptability.metric 'matthews' does not fit bam_lightning.OrdinalHead: "
        "use quadratic_kappa, accuracy or spearman",
    ),
    (
        "suite.tasks.sentiment.label_separator=''",
        "suite.tasks.sentiment.label_separator must be at least one character, got ''",
    ),
    ("suite.tasks.entailment.metric=f1", "suite.tasks.entailment.metric 'f1' needs 2 label_names, got 3"),
    (
        "suite.tasks.sentiment.head.label_names=[yes]",
        "suite.tasks.sentiment.head.label_names must be at least 2 different names, got ['yes']",
    ),
    (
        "suite.tasks.sentiment.head.label_names=[]",
        "suite.tasks.sentiment.head needs either label_names, as in label_names: [a, b] in the order of their class "
        "ids, or label_range, as in label_range: [0, 5] for regression; got neither",
    ),
    (
        "suite.tasks.similarity.head.label_range=[5,0]",
        "suite.tasks.similarity.head.label_range must be [lowest, highest], got [5.0, 0.0]",
    ),
    ("suite.tasks.sentiment.head.dropout=1", "suite.tasks.sentiment.head.dropout must be in [0, 1), got 1.0"),
    ("suite.tasks.sentiment.text=[]", "suite.tasks.sentiment.text must name columns, got []"),
    ("suite.tasks.sentiment.symmetric=true", "suite.tasks.sentiment.symmetric needs two text columns, got ['text_a']"),
    (
        "suite.tasks.sentiment.train_split=null",
        "suite.tasks.sentiment.train_split is null; a task needs one, unless head_of names another task",
    ),
    ("suite.tasks.sentiment.train_rows=0", "suite.tasks.sentiment.train_rows must be at least 1, got 0"),
    (
        "recipe.stages.student.teacher=multi",
        "recipe.stages.student.teacher names stage 'multi'; stages before it: single",
    ),
    (
        "recipe.stages.single.init_from=student",
        "recipe.stages.single.init_from names stage 'student'; stages before it: none",
    ),
    (
        "recipe.stages.single.tasks=[rte]",
        "recipe.stages.single.tasks names 'rte'; choices: acceptability, sentiment, paraphrase, similarity, "
        "question_paraphrase, entailment, answer_entailment, small_entailment",
    ),
    (
        "encoder.path=x",
        "encoder 'demo' has a model_config of its own, so encoder.path=x does not fit; choose one that is read from a "
        "path, as in encoder=minilm encoder.path=x",
    ),
    (
        "encoder.pretraining.text=[a.txt]",
        "encoder.pretraining takes either text=[FILE, ...] or sentences=N of the generated language, "
        "got text=['a.txt'] and sentences=20000",
    ),
    (
        "encoder.pretraining.sentences=0",
        "encoder 'demo' is built from model_config, so it must be pretrained first; "
        "give encoder.pretraining.text=[FILE, ...] or encoder.pretraining.sentences=N",
    ),
    ("encoder.pretraining.mlm_probability=0", "encoder.pretraining.mlm_probability must be in (0, 1), got 0.0"),
    (
        "teachers.sentimnt=abc",
        "teachers names 'sentimnt'; choices: acceptability, sentiment, paraphrase, similarity, "
        "question_paraphrase, entailment, answer_entailment, small_entailment; did you mean 'sentiment'?",
    ),
]


@pytest.mark.parametrize(("override", "expected"), BAD, ids=[override for override, _ in BAD])
def test_a_bad_value_is_refused_with_its_key(override, expected):
    with pytest.raises(Exception) as caught:
        compose([override])
    assert format_error(caught.value) == expected


def test_compiled_layers_and_shared_ones_do_not_go_together():
    with pytest.raises(ValueError, match=r"^run\.compile=true and trainer\.strategy=fsdp do not go together; "):
        compose(["run.compile=true", "trainer.strategy=fsdp"])
    with pytest.raises(ValueError, match=r"^trainer\.strategy=fsdp does not go with trainer\.precision=64-true; "):
        compose(["trainer.precision=64-true", "trainer.strategy=fsdp"])


def test_a_pretraining_recipe_needs_something_to_read():
    with pytest.raises(
        ValueError, match=r"^recipe\.stages\.pretrain is of kind pretrain, so it needs text to read; give"
    ):
        compose(["scale=small", "recipe=pretrain"])


def test_a_task_scored_by_an_absent_task_is_refused():
    with pytest.raises(ValueError, match=r"^suite\.tasks\.ax\.head_of names 'mnli'; choices: rte, ax$"):
        compose(["scale=small", "suite.include=[rte,ax]"])


def test_a_user_file_with_an_unknown_key_is_refused(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text(
        "defaults: [schema, /head: classification, _self_]\npath: x\ntxet: [a]\n"
    )
    with pytest.raises(Exception, match="txet"):
        compose([f"hydra.searchpath=[file://{tmp_path}]", "+task@suite.tasks.mine=mine"])


@pytest.mark.slow
def test_planning_rooms_import_no_torch():
    code = (
        "import sys; import bam_lightning.config.compose, bam_lightning.recipes.planner, "
        "bam_lightning.store.run_store, bam_lightning.data.sampling, bam_lightning.data.examples; "
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_task_can_be_taken_out_of_a_suite():
    config = compose(["scale=small", "~suite.tasks.rte"])
    assert "rte" not in config.suite.tasks


def test_a_data_root_that_nothing_would_read_is_refused():
    with pytest.raises(
        ValueError, match=r"^data\.root is DIR, but every task of suite 'demo' is generated .*add scale=small"
    ):
        compose(["data.root=DIR"])


@pytest.mark.parametrize("metric", ["accuracy", "f1", "spearman", "macro_f1", "quadratic_kappa"])
def test_a_head_of_ones_own_takes_any_metric_of_its_labels(metric):
    names = ["suite.tasks.sentiment.head._target_=mine.Head", f"suite.tasks.sentiment.metric={metric}"]
    assert compose(names).suite.tasks["sentiment"].multi_label == (metric == "macro_f1")
    scores = ["suite.tasks.similarity.head._target_=mine.Head", f"suite.tasks.similarity.metric={metric}"]
    if metric == "spearman":
        assert compose(scores).suite.tasks["similarity"].regression
    else:
        with pytest.raises(ValueError) as caught:
            compose(scores)
        assert str(caught.value) == f"suite.tasks.similarity.metric {metric!r} does not fit mine.Head: use spearman"
