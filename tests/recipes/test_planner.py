"""The plan: which Runs a recipe has, what they need, and what changes their ids."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.job_config import Hyperparameters, RecipeConfig, StageConfig
from bam_lightning.recipes.planner import more_steps, plan_runs, required_predictions, resolve
from bam_lightning.store.run_spec import DataSummary, EncoderSummary, PredictionRequest, run_from_json, to_json

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SIZES = {
    "cola": 8551,
    "sst2": 67349,
    "mrpc": 3668,
    "stsb": 5749,
    "qqp": 363846,
    "mnli": 392702,
    "qnli": 104743,
    "rte": 2490,
}
FACTS = DataSummary(sizes=SIZES, fingerprints=dict.fromkeys(SIZES, "f"), encoder="e")


@functools.cache
def planned(*overrides: str):
    """Return the Runs of a GLUE job at the paper's scale."""
    return plan_runs(compose(["scale=paper", *overrides]), FACTS)


def with_stages(stages: dict[str, StageConfig], *overrides: str):
    """Return the Runs of a recipe of one's own."""
    config = compose(["scale=paper", *overrides])
    config.recipe.stages = stages
    return plan_runs(config, FACTS)


@pytest.mark.parametrize(("most", "also"), [(4, " trainer.max_steps=100"), (100, "")])
def test_more_steps_than_the_trainer_takes_are_asked_of_both_options(most, also):
    config = compose(["scale=paper", f"trainer.max_steps={most}"])
    run = plan_runs(config, FACTS)[0]
    assert more_steps(run, 100, config) == f"recipe.stages.single.optimization.min_steps=100{also}"


def test_single_multi_has_a_teacher_per_task_and_one_student():
    runs = planned("recipe=single_multi")
    teachers, student = runs[:-1], runs[-1]
    assert [run.tasks for run in teachers] == [(task,) for task in SIZES]
    assert student.tasks == tuple(SIZES)
    assert student.teachers == {run.tasks[0]: (run.id,) for run in teachers}
    assert set(student.dependencies) == {run.id for run in teachers}
    assert all(run.teaches for run in teachers)
    assert not student.teaches


@pytest.mark.parametrize("recipe", ["ensemble_multi", "single_multi_finetune", "single_multi_out_of_fold", "stilts"])
def test_a_run_is_the_same_after_json(recipe):
    for run in planned(f"recipe={recipe}"):
        again = run_from_json(json.loads(json.dumps(to_json(asdict(run)))))
        assert again == run
        assert again.id == run.id


def test_steps_are_the_papers():
    runs = planned("recipe=single_multi")
    steps = {run.label: run.steps for run in runs}
    assert steps["single/rte"] == 234  # the reference code
    assert steps["single/mnli"] == 36816
    assert steps["student"] == -(-6 * sum(SIZES.values()) // 128)
    assert {run.hyper.learning_rate for run in runs[:-1]} == {5e-5}
    assert runs[-1].hyper.learning_rate == 1e-4
    assert runs[-1].hyper.layerwise_decay == 0.9


def test_reference_code_counts_steps_by_copies():
    doubled = replace(FACTS, sizes={**SIZES, "mrpc": 7336, "stsb": 11498})
    student = plan_runs(compose(["scale=paper", "recipe=multi", "fidelity=reference_code"]), doubled)[-1]
    assert student.steps == 50466  # the reference code: 1,076,606 rows of the hub's sizes


CODE_SIZES = {**SIZES, "mrpc": 7336, "stsb": 11498, "qnli": 108436, "qqp": 363869}  # pairs in both orders, QNLI v1
CODE = replace(FACTS, sizes=CODE_SIZES)


def test_reference_code_counts_single_tasks_in_whole_minibatches():
    runs = plan_runs(compose(["scale=paper", "recipe=single", "fidelity=reference_code"]), CODE)
    assert {run.tasks[0]: run.steps for run in runs} == {
        "cola": 804, "mnli": 36816, "mrpc": 690, "qnli": 10167, "qqp": 34113, "sst2": 6315, "stsb": 1080, "rte": 234,
    }  # fmt: skip
    assert {run.hyper.layerwise_decay for run in runs} == {0.9}


@pytest.mark.parametrize(
    ("tasks", "steps"), [("rte,mrpc", 1500), ("rte,mnli", 18876), ("rte,qqp,cola,sst2", 25044), ("", 50646)]
)
def test_reference_code_copies_small_tasks_up_to_mnlis_size(tasks, steps):
    """Whatever the tasks are: numbers of the released code's own constants."""
    words = ["scale=paper", "recipe=multi", "fidelity=reference_code", f"suite.include=[{tasks}]"]
    assert plan_runs(compose(words), CODE)[-1].steps == steps


def test_students_of_all_seeds_share_their_teachers():
    first, second = planned("seed=0"), planned("seed=1")
    assert [run.id for run in first[:-1]] == [run.id for run in second[:-1]]
    assert first[-1].id != second[-1].id
    other = planned("seed=0", "teacher_seed=1")
    assert not {run.id for run in other} & {run.id for run in first}


def test_single_runs_are_the_teachers_of_the_same_seed():
    assert {run.id for run in planned("recipe=single", "seed=3")} == {
        run.id for run in planned("recipe=single_multi", "teacher_seed=3", "seed=8")[:-1]
    }


def test_ids_are_those_of_the_stores_that_are_there():
    """Copied from a plan of algorithm 3: another id means that a finished Run is trained again."""
    config = compose()
    names = list(config.suite.trained())
    facts = DataSummary(dict.fromkeys(names, 100), {name: f"rows of {name}" for name in names}, "encoder", 1000, "text")
    assert {run.label: run.id for run in plan_runs(config, facts)} == {
        "pretrain": "13a6bef0cb9f",
        "single/acceptability": "54264b1804e6",
        "single/sentiment": "7084a3d11244",
        "single/paraphrase": "e021fd803ed9",
        "single/similarity": "b4bca2d634fa",
        "single/question_paraphrase": "9ba950485d78",
        "single/entailment": "7150cb3bd81b",
        "single/answer_entailment": "d236feb90d08",
        "single/small_entailment": "7600512d20aa",
        "student": "64e01eef39fe",
    }


CHANGES = [
    "optimization.learning_rate=1e-5",
    "optimization.warmup=0.2",
    "optimization.weight_decay=0.1",
    "optimization.clip_norm=2",
    "optimization.epsilon=1e-8",
    "optimization.bias_correction=false",
    "optimization.lr_schedule=bert",
    "optimization.batch_size=64",
    "optimization.epochs=1",
    "optimization.layerwise_decay=0.5",
    "data.max_length=64",
    "data.truncation=head_tail",
    "encoder.pooling=cls",
    "encoder.pooling=last",
    "encoder.freeze=all",
    "encoder.freeze=1",
    "encoder.gradient_checkpointing=true",
    "encoder.layers=encoder.layer",
    "encoder.peft={_target_: peft.LoraConfig, r: 8}",
    "trainer.precision=32-true",
    "trainer.max_steps=7",
    "run.call_tokens=9",
    "run.kernels=false",
    "sampler.exponent=0.5",
    "distillation=half",
    "seed=1",
    "suite.tasks.rte.head.dropout=0.2",
    "suite.tasks.rte.head.label_names=[a,b]",
    "suite.sigmoid=false",
    "suite.tasks.rte.teacher=false",
]
IDLE = [
    "logger=csv",
    "logger.project=x",
    "paths.store=elsewhere",
    "trainer.log_every_n_steps=3",
    "run.checkpoint_minutes=9",
    "run.progress=false",
    "data.root=elsewhere",
    "data.workers=2",
    "suite.tasks.rte.train_split=other",
    "suite.tasks.rte.in_average=false",
    "suite.tasks.rte.delimiter=';'",
    "suite.tasks.rte.quoting=false",
    "suite.tasks.rte.label_separator=';'",
    "optimization.single.epochs=9",
]


@pytest.mark.parametrize("override", CHANGES)
def test_what_changes_weights_changes_the_id(override):
    assert planned(override)[-1].id != planned()[-1].id


def test_a_pooling_that_is_chosen_gives_the_id_of_the_one_that_is_given():
    facts = replace(FACTS, pooling="last")
    chosen = plan_runs(compose(["scale=small", "encoder.pooling=null"]), facts)
    assert [run.id for run in chosen] == [
        run.id for run in plan_runs(compose(["scale=small", "encoder.pooling=last"]), FACTS)
    ]
    default = plan_runs(compose(["scale=small", "encoder.pooling=null"]), FACTS)
    assert [run.id for run in default] == [run.id for run in plan_runs(compose(["scale=small"]), FACTS)]


@pytest.mark.parametrize("override", IDLE)
def test_what_cannot_change_weights_leaves_the_student_of_given_teachers_alone(override):
    given = ["recipe=multi", "teachers.rte=0123456789ab"]
    assert planned(*given, override)[-1].id == planned(*given)[-1].id


@pytest.mark.parametrize("fact", ["fingerprints", "encoder"])
def test_other_data_or_another_encoder_is_another_run(fact):
    value = {**FACTS.fingerprints, "rte": "g"} if fact == "fingerprints" else "g"
    config = compose(["scale=paper", "suite.include=[rte]"])
    assert plan_runs(config, replace(FACTS, **{fact: value}))[0].id != plan_runs(config, FACTS)[0].id


def test_values_come_from_stage_then_command_line_then_task_then_profile():
    config = compose(["scale=paper", "optimization.learning_rate=3e-5", "suite.tasks.rte.layerwise_decay=0.9"])
    stage = StageConfig(per_task=True, optimization=Hyperparameters(epochs=1.0))
    hyper = resolve(config, stage, ("rte",), {})
    assert (hyper.epochs, hyper.learning_rate, hyper.layerwise_decay, hyper.batch_size) == (1.0, 3e-5, 0.9, 32)
    assert resolve(config, stage, ("rte", "mnli"), {}).layerwise_decay == 0.9  # the multi profile's
    assert resolve(config, stage, ("cola",), {}).layerwise_decay == 1.0


def test_min_steps_lengthens_small_tasks_only():
    runs = {run.label: run.steps for run in planned("recipe=single", "optimization.min_steps=500")}
    assert runs["single/rte"] == 500
    assert runs["single/cola"] == 802


def test_a_task_without_teacher_learns_from_gold():
    student = planned("suite.tasks.rte.teacher=false")[-1]
    assert "rte" not in student.teachers
    assert "mnli" in student.teachers


def test_a_stage_starts_from_another_and_trains_some_tasks():
    target = StageConfig(per_task=True, init_from="intermediate", tasks=["rte", "cola"])
    runs = with_stages({"intermediate": StageConfig(tasks=["mnli"]), "target": target}, "seed=5")
    first = runs[0]
    assert [run.label for run in runs[-2:]] == ["target/rte", "target/cola"]
    assert {run.init_from for run in runs[-2:]} == {first.id}
    assert first.tasks == ("mnli",)
    assert (first.seed, runs[-1].seed) == (5, 5)


def test_a_teacher_stage_without_the_task_is_named():
    stages = {"single": StageConfig(per_task=True, tasks=["mnli"]), "student": StageConfig(teacher="single")}
    with pytest.raises(
        ValueError, match=r"^recipe\.stages\.student needs a Run of task 'cola' from stage 'single', which trains mnli$"
    ):
        with_stages(stages)


def test_pretraining_comes_first_and_everything_starts_from_it():
    config = compose([])
    sizes = {name: task.train_rows for name, task in config.suite.tasks.items()}
    facts = DataSummary(sizes, dict.fromkeys(sizes, "f"), "e", text_lines=20000, text_fingerprint="t")
    runs = plan_runs(config, facts)
    assert runs[0].stage == "pretrain"
    assert runs[0].steps == 1500
    assert {run.init_from for run in runs[1:]} == {runs[0].id}
    again = plan_runs(config, replace(facts, text_fingerprint="u"))
    assert not {run.id for run in again} & {run.id for run in runs}
    for word in ("run.kernels=false", "+trainer.accumulate_grad_batches=2"):  # they change what is pretrained as well
        assert plan_runs(compose([word]), facts)[0].id != runs[0].id


def test_the_last_stage_predicts_test_splits_and_diagnostics_when_asked():
    config = compose(["scale=paper", "data.test=true"])
    runs = plan_runs(config, FACTS)
    assert PredictionRequest("ax", "mnli", "test") in required_predictions(runs[-1], config)
    assert PredictionRequest("rte", "rte", "test") in required_predictions(runs[-1], config)
    assert not any(one.split == "test" for run in runs[:-1] for one in required_predictions(run, config))


def stages(*overrides: str) -> dict[str, list]:
    """Return stage -> its Runs."""
    found: dict[str, list] = {}
    for run in planned(*overrides):
        found.setdefault(run.stage, []).append(run)
    return found


def test_single_single_teaches_each_task_by_itself():
    found = stages("+experiment=single_single", "seed=4")
    assert [run.tasks for run in found["student"]] == [(task,) for task in SIZES]
    assert [run.seed for run in found["single"] + found["student"]] == [0] * 8 + [4] * 8
    for teacher, student in zip(found["single"], found["student"], strict=True):
        assert student.teachers == {student.tasks[0]: (teacher.id,)}
        assert student.hyper == teacher.hyper  # "the same as for our single-task models"


def test_multi_multi_is_taught_by_one_model():
    found = stages("+experiment=multi_multi")
    assert found["student"][0].teachers == dict.fromkeys(SIZES, (found["multi"][0].id,))


def test_every_student_of_the_chain_teaches_the_next():
    found = stages("+experiment=single_multi_single_multi", "seed=3", "teacher_seed=1")
    assert [len(runs) for runs in found.values()] == [8, 1, 8, 1]
    assert found["student"][0].dependencies == tuple(sorted(run.id for run in found["second_single"]))
    assert {run.dependencies for run in found["second_single"]} == {(found["first_student"][0].id,)}
    assert [runs[0].seed for runs in found.values()] == [1, 1, 1, 3]
    assert found["single"] == [replace(run, tests=False) for run in stages("teacher_seed=1")["single"]]


@pytest.mark.parametrize(("name", "base"), [("multi_finetune", "multi"), ("single_multi_finetune", "student")])
def test_fine_tuning_starts_from_each_seeds_own_multi_task_model(name, base):
    found = stages(f"+experiment={name}", "seed=7")
    assert found[base][0].seed == 7
    assert {run.init_from for run in found["finetuned"]} == {found[base][0].id}
    assert {run.hyper.learning_rate for run in found["finetuned"]} == {1e-5}
    assert {run.hyper.batch_size for run in found["finetuned"]} == {32}
    assert all(run.teachers == {} for run in found["finetuned"])
    if base == "student":
        assert {run.seed for run in found["single"]} == {0}


def test_stilts_goes_by_way_of_mnli():
    found = stages("+experiment=stilts")
    assert found["intermediate"][0].tasks == ("mnli",)
    assert {run.init_from for run in found["single"]} == {found["intermediate"][0].id}


def test_an_ensemble_teaches_with_all_its_seeds():
    found = stages("+experiment=ensemble_multi", "teacher_seed=2")
    assert sorted({run.seed for run in found["single"]}) == [2, 3, 4]
    by_task = {task: tuple(run.id for run in found["single"] if run.tasks == (task,)) for task in SIZES}
    assert found["student"][0].teachers == by_task
    assert found["student"][0].teacher_ids["rte"] == list(by_task["rte"])


ABLATIONS = ["no_layerwise_rates", "no_task_sampling", "lam_0", "lam_half"]


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_the_student_and_not_its_teachers(name):
    whole, cut = stages(), stages(f"+experiment={name}")
    assert [run.id for run in cut["single"]] == [run.id for run in whole["single"]]
    assert cut["student"][0].id != whole["student"][0].id
    assert cut["student"][0].steps == whole["student"][0].steps


def test_a_temperature_changes_the_student_and_not_its_teachers():
    whole, soft = stages(), stages("suite.tasks.rte.temperature=2")
    assert [run.id for run in soft["single"]] == [run.id for run in whole["single"]]
    assert soft["student"][0].id != whole["student"][0].id


def test_ablations_are_what_they_say():
    students = {name: stages(f"+experiment={name}")["student"][0] for name in ABLATIONS}
    assert students["no_layerwise_rates"].hyper.layerwise_decay == 1.0
    assert students["no_task_sampling"].spec["sampler"]["exponent"] == 1.0
    assert students["lam_0"].spec["distillation"]["lam"] == 0.0
    assert students["lam_half"].spec["distillation"]["lam"] == 0.5


def test_no_task_sampling_at_equal_steps_differs_where_copies_make_the_length():
    """Reference code, sizes as here: fewer copies are fewer steps, unless the length is that of exponent 0.75."""
    steps = {
        name: stages(f"+experiment={name}", "fidelity=reference_code")["student"][0].steps
        for name in ("single_multi", "no_task_sampling", "no_task_sampling_equal_steps")
    }
    assert steps["no_task_sampling"] < steps["single_multi"] == steps["no_task_sampling_equal_steps"]
    plain = [
        stages(f"+experiment={name}")["student"][0] for name in ("no_task_sampling", "no_task_sampling_equal_steps")
    ]
    assert plain[0].id == plain[1].id  # under fidelity=paper they are one


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("target_alone", {"rte"}),
        ("target_related", {"rte", "mnli"}),
        ("target_unrelated", {"rte", "qqp", "cola", "sst2"}),
    ],
)
def test_table_5_has_its_task_sets(name, tasks):
    found = stages(f"+experiment={name}")
    assert set(found["student"][0].tasks) == tasks
    assert {run.tasks[0] for run in found["single"]} == tasks
    whole = {run.tasks[0]: run.id for run in stages()["single"]}
    assert all(run.id == whole[run.tasks[0]] for run in found["single"])  # teachers are shared with Table 1


@pytest.mark.release
def test_experiments_compose_with_the_reference_code():
    from bam_lightning.config.compose import conf_dir

    names = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
    names = [name for name in names if name not in ("demo_kinds", "mt_dnn")]  # of another suite, another sampler
    for name in names[::6]:  # that all compose is test_yaml's
        for run in planned(f"+experiment={name}", "fidelity=reference_code"):
            assert not run.spec["optimization"]["bias_correction"]
            assert run.spec.get("sampler", {"_target_": "ReplicationSampler"})["_target_"].endswith(
                "ReplicationSampler"
            )


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*/experiment/*.yaml")), ids=lambda path: path.stem)
def test_experiments_of_ones_own_folder_compose(path):
    suite = ["scale=small"] if "real_text" in path.parts else []
    config = compose([f"hydra.searchpath=[file://{path.parents[1]}]", f"+experiment={path.stem}", *suite])
    assert config.experiment == path.stem
    recipe = re.search(r"override /recipe: (\w+)", path.read_text()).group(1)
    usual = compose([f"recipe={recipe}", *suite])
    names_teachers = "teachers.TASK" in path.read_text()
    assert names_teachers or replace(config, experiment=None) != usual  # its changes arrive


def test_weights_do_not_start_from_an_ensemble():
    recipe = RecipeConfig("mine", {"a": StageConfig(seeds=2), "b": StageConfig(init_from="a")})
    with pytest.raises(
        ValueError, match=r"^recipe\.stages\.b\.init_from names stage 'a' of 2 seeds, but weights start from"
    ):
        recipe.check(compose([]).suite)


def test_a_decay_chosen_on_the_dev_set_comes_before_the_profile_and_after_everything_else():
    config = compose(["scale=paper"])
    stage = StageConfig(per_task=True)
    assert resolve(config, stage, ("rte",), {"rte": 0.9}).layerwise_decay == 0.9
    assert resolve(config, stage, ("cola",), {"rte": 0.9}).layerwise_decay == 1.0
    assert resolve(config, stage, ("cola", "rte"), {"rte": 0.5}).layerwise_decay == 0.9  # the multi profile's
    own = compose(["scale=paper", "suite.tasks.rte.layerwise_decay=0.8"])
    assert resolve(own, stage, ("rte",), {"rte": 0.9}).layerwise_decay == 0.8
    given = compose(["scale=paper", "optimization.layerwise_decay=0.7"])
    assert resolve(given, stage, ("rte",), {"rte": 0.9}).layerwise_decay == 0.7


def outside(config, columns: dict[str, str]):
    """Return the Runs of a job with teachers from outside, whose predictions have the given digests."""
    digests = {task: (digest,) for task, digest in columns.items()}
    return plan_runs(config, replace(FACTS, columns=digests))


def test_a_file_teaches_in_place_of_a_run_which_leaves_the_plan():
    words = ["scale=paper", "recipe=single_multi", "teachers.rte=llm.parquet"]
    runs = outside(compose(words), {"rte": "a1"})
    assert ("rte",) not in [run.tasks for run in runs]
    assert len(runs) == len(SIZES)
    student = runs[-1]
    assert student.teachers["rte"] == ("column:a1",)
    assert set(student.dependencies) == {run.id for run in runs[:-1]}
    assert student.spec["teachers"]["rte"] == "column:a1"
    other_file = compose([*words[:2], "teachers.rte={path: other.csv, probabilities: 'p_*', missing: gold}"])
    assert outside(other_file, {"rte": "a1"})[-1].id == student.id  # of the same matched values
    assert outside(compose(words), {"rte": "b2"})[-1].id != student.id
    assert planned()[-1].id != student.id


def test_a_run_that_others_need_stays_in_the_plan():
    stages = {
        "multi": StageConfig(),
        "single": StageConfig(per_task=True, init_from="multi"),
        "tuned": StageConfig(per_task=True, init_from="single", teacher="single"),
        "student": StageConfig(teacher="tuned"),
    }
    config = compose(["scale=paper", "teachers.rte=llm.parquet"])
    config.recipe.stages = stages
    found = [run.label for run in outside(config, {"rte": "a1"})]
    assert "tuned/rte" not in found
    assert "single/rte" not in found  # nobody but tuned/rte needed it
    assert {"multi", "single/mnli", "tuned/mnli", "student"} <= set(found)
    config.recipe.stages = {**stages, "student": StageConfig(teacher="single", init_from="multi")}
    assert "single/rte" in [run.label for run in outside(config, {"rte": "a1"})]  # tuned/rte starts from it


def test_an_ensemble_of_files_and_runs_counts_its_weights():
    run = "0123456789ab"
    words = ["scale=paper", "recipe=multi"]

    def student(value: str):
        config = compose([*words, f"teachers.rte={value}"])
        return plan_runs(config, replace(FACTS, columns={"rte": ("a1", "")}))[-1]

    plain = student(f"[llm.parquet,{run}]")
    assert plain.teachers["rte"] == ("column:a1", run)
    assert plain.dependencies == (run,)
    assert "teacher_weights" not in plain.spec
    weighted = student(f"[{{path: llm.parquet, weight: 3}},{run}]")
    assert weighted.spec["teacher_weights"] == {"rte": [3.0, 1.0]}
    assert weighted.id != plain.id


def test_a_task_without_any_gold_is_taught_from_outside():
    config = compose(["scale=paper", "recipe=single_multi", "teachers.rte=llm.parquet"])
    facts = replace(FACTS, labelled={"rte": 0}, columns={"rte": ("a1",)})
    runs = plan_runs(config, facts)
    assert len(runs) == len(SIZES)
    assert runs[-1].teachers["rte"] == ("column:a1",)
    with pytest.raises(ConfigError, match=r"no training row of 'rte' has a gold label.*teachers\.rte=FILE"):
        plan_runs(compose(["scale=paper", "recipe=single_multi"]), facts)


def test_a_stage_with_its_own_encoder_has_its_own_pretraining_length_and_ids():
    own = ["recipe.stages.single.encoder=demo", "recipe.stages.single.encoder.model_config.hidden_size=128"]
    config = compose(["scale=demo", *own, "recipe.stages.single.max_length=48"])
    sizes = dict.fromkeys(config.suite.trained(), 100)
    wide = EncoderSummary("wide", 20000, "t", {})
    facts = DataSummary(sizes, dict.fromkeys(sizes, "f"), "narrow", 20000, "t", stages={"single": wide})
    facts = replace(facts, stages={"single": wide, "pretrain_single": wide})
    runs = {run.label: run for run in plan_runs(config, facts)}
    first, second = runs["pretrain_single"], runs["pretrain"]
    assert [run.spec["encoder"] for run in (first, second)] == ["wide", "narrow"]
    teacher, student = runs["single/sentiment"], runs["student"]
    assert (teacher.init_from, student.init_from) == (first.id, second.id)
    assert teacher.spec["max_length"] == 48
    plain = {run.label: run for run in plan_runs(compose(["scale=demo"]), replace(facts, stages={}))}
    assert second.id == plain["pretrain"].id
    assert student.spec["max_length"] == plain["student"].spec["max_length"]
    assert "pretrain_single" not in plain
    same = compose(["scale=demo", "recipe.stages.single.encoder=demo"])  # the student's own: nothing is trained twice
    same_facts = replace(facts, stages={"single": EncoderSummary("narrow", 20000, "t", {})})
    assert [run.id for run in plan_runs(same, same_facts)] == [run.id for run in plain.values()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["recipe=multi_finetune"],
            r"recipe.stages.\w+.init_from names stage 'multi', which has another encoder \(bert_",
        ),
        (["recipe.stages.multi.encoder.pooling=none"], r"recipe.stages.multi.encoder.pooling names 'none'; choices"),
        (["recipe.stages.multi.max_length=1"], r"recipe.stages.multi.max_length must be at least 8, got 1"),
        (["recipe.stages.multi.kind=pretrain"], r"give recipe.stages.multi.encoder.pretraining.text=\[FILE, ...\]"),
    ],
)
def test_what_does_not_fit_a_stages_encoder_is_refused(words, message):
    recipe = [] if words[0].startswith("recipe=") else ["recipe=multi"]
    with pytest.raises(ConfigError, match=message):
        compose(["scale=paper", *recipe, *words, "recipe.stages.multi.encoder=bert_base"])
