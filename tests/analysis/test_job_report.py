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
            "metrics": {"rte": {"accuracy": 0.5271}, "cola": {"matthews": 0.4}, "wnli": {"accuracy": 0.5}},
        },
    ]
    summary = {"average": {"single": 0.3, "student": 0.4}, "runs": runs}
    majority = {"rte": 0.5271, "cola": 0.0, "wnli": 0.5634}  # WNLI is not in the average
    remedy = "; try more epochs, another learning rate or encoder, and look at its rows with `bam check`"
    assert no_better_than_majority(config, summary, majority) == [
        "single has not learned 'cola': its dev matthews is 0.000, and giving every row the commonest answer reaches "
        "0.000" + remedy,
        "student has not learned 'rte': its dev accuracy is 0.527, and giving every row the commonest answer reaches "
        "0.527" + remedy,
    ]
