"""What is said at the end of a job."""

from bam_lightning.analysis.job_report import no_better_than_majority
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
