"""What is said at the end of a job."""

from bam_lightning.analysis.job_report import no_better_than_majority, table
from bam_lightning.config.compose import compose


def test_a_stage_that_equals_its_majority_class_is_named():
    config = compose(["scale=small", "suite=glue_with_wnli", "suite.include=[rte,cola,wnli]"])
    runs = [
        {
            "stage": "single",
            "metrics": {"rte": {"accuracy": 0.6}, "cola": {"matthews": 0.0}, "wnli": {"accuracy": 0.5}},
        },
        {
            "stage": "student",
            "metrics": {"rte": {"accuracy": 0.5271}, "cola": {"matthews": -0.1}, "wnli": {"accuracy": 0.5}},
        },
    ]
    summary = {"average": {"single": 0.3, "student": 0.4}, "runs": runs}
    majority = {"rte": 0.5271, "cola": 0.0, "wnli": 0.5634}  # WNLI is not in the average
    remedy = "; try more epochs, another learning rate or encoder, and look at the rows with `bam check`"
    start = "is no better than giving every row the commonest answer on"
    assert no_better_than_majority(config, summary, majority) == [
        f"single {start} cola (matthews 0.000, not above 0.000){remedy}",
        f"student {start} rte (accuracy 0.527, not above 0.527), cola (matthews -0.100, not above 0.000){remedy}",
    ]


def accuracies(stage: str, **scores: float) -> dict:
    metric = {"rte": "accuracy", "sst2": "accuracy", "wnli": "accuracy", "cola": "matthews"}
    return {"stage": stage, "metrics": {task: {metric[task]: score} for task, score in scores.items()}}


def test_a_teachers_average_over_fewer_tasks_than_the_students_is_left_out():
    config = compose(["scale=small", "suite=glue_with_wnli", "suite.include=[rte,cola,wnli]"])
    student = accuracies("student", rte=0.7, cola=0.1, wnli=0.5)
    summary = {"average": {"single": 0.6, "student": 0.4}, "runs": [accuracies("single", rte=0.6), student]}
    head, rows = table(config, summary, {}, {}, {})
    assert head[4:] == ["teacher (single)", "student", "difference", "over the dev rows"]
    assert [row[4:] for row in rows if row[0] == "rte"] == [["60.0", "70.0", "+10.0", ""]]
    assert rows[-1] == ["average", "", "", "", "", "40.0", "", ""]
    summary = {"average": {"single": 0.3, "student": 0.4}, "runs": [accuracies("single", rte=0.6, cola=0.0), student]}
    assert table(config, summary, {}, {}, {})[1][-1][4:] == ["30.0", "40.0", "+10.0", ""]  # WNLI is not in the average


def test_a_difference_from_a_run_outside_the_recipe_names_it():
    config = compose(["scale=small", "suite.include=[rte,sst2]", "teachers.rte=0123456789ab"])
    runs = [accuracies("single", sst2=0.6), accuracies("student", rte=0.7, sst2=0.7)]
    over = {"rte": "+1 of 56 rows: within noise", "sst2": "+2 of 56 rows: within noise"}
    _, rows = table(config, {"average": {"single": 0.6, "student": 0.7}, "runs": runs}, {}, {}, over)
    assert {row[0]: row[-2:] for row in rows} == {
        "rte": ["", "+1 of 56 rows: within noise (against Run 0123456789ab)"],
        "sst2": ["+10.0", "+2 of 56 rows: within noise"],
        "average": ["", ""],
    }
