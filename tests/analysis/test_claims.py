"""Pairing, verdicts, the GLUE score, odd jobs and claims, on stores whose answers can be worked out by hand."""

from __future__ import annotations

import json
import math

import pytest

from bam_lightning.analysis.claims import HOLDS, OPPOSITE, TOO_FEW, UNDETERMINED
from bam_lightning.analysis.collect import TableFilter, collect
from bam_lightning.analysis.compare import Table, compare
from bam_lightning.analysis.formats import body, claims, comparisons, heading, legend, markdown
from bam_lightning.analysis.table_config import ClaimConfig, TableConfig
from bam_lightning.store.job_records import read_records
from fake_store import MACHINE, VERSIONS, FakeStore

NOISE = [0.3, -0.2, 0.1, -0.4, 0.2, 0.4, -0.1, -0.3]  # points, one per seed


@pytest.fixture
def fake(tmp_path) -> FakeStore:
    return FakeStore(tmp_path / "store")


def spec(seed: int, sampler: str = "size", order=("cola", "rte")) -> dict:
    """Return what decides the order of examples and the heads of a multi-task Run."""
    return {"kind": "train", "order": list(order), "seed": seed, "steps": 10, "batch_size": 4, "sampler": sampler}


def add_row(fake: FakeStore, name: str, mean: float, scale: float = 1.0, seeds: int = 8, **fields) -> None:
    """Add a multi-task row whose seeds lie at ``mean`` points plus noise; seeds of all rows are pairs."""
    for seed in range(seeds):
        score = (mean + scale * NOISE[seed]) / 100
        fake.add(name, seed, {"cola": score, "rte": score}, manifest={"spec": spec(seed), **fields})


def make(fake: FakeStore, *names: str, mix: bool = False, **fields) -> Table:
    config = TableConfig(title="T", rows={name: name.title() for name in names}, **fields)
    return compare(config, collect(config, read_records(fake.store), fake.store, TableFilter(mix=mix)))


def test_multi_task_rows_of_one_stream_are_paired_by_seed_and_it_is_said(fake):
    add_row(fake, "multi", 70, scale=10)
    add_row(fake, "student", 70.5, scale=10)
    table = make(fake, "multi", "student", against={"student": ["multi"]}, tested=["average"])
    (pair,) = table.comparisons
    assert (pair.paired, pair.verdict) == (True, "better")
    assert pair.p == pytest.approx(2 / 2**8)  # all 8 differences have one sign
    title = "sign-flip test of the mean difference (paired by seed, since both rows share order and heads)"
    assert f"Test: {title}: Student against Multi." in legend(table)
    unpaired = make(fake, "multi", "student", against={"student": ["multi"]}, tested=["average"], paired=False)
    assert (unpaired.comparisons[0].paired, unpaired.comparisons[0].verdict) == (False, "undetermined")
    assert "Test: studentised bootstrap of the means (unpaired): Student against Multi." in legend(unpaired)


@pytest.mark.parametrize(
    "manifest",
    [{"spec": spec(0, sampler="uniform")}, {"init_from": "multi-1"}, {"init_from": "deleted"}, {"tasks": ["rte"]}],
    ids=["another order", "fine-tuned", "from a Run that is gone", "single-task"],
)
def test_rows_of_another_stream_are_not_paired(fake, manifest):
    add_row(fake, "multi", 70)
    for seed in range(8):
        changed = {"spec": spec(seed), **manifest}
        fake.add("other", seed, {"cola": 0.71 + seed / 1000, "rte": 0.7}, manifest=changed)
    table = make(fake, "multi", "other", against={"other": ["multi"]}, test="mann_whitney")
    assert not any(pair.paired for pair in table.comparisons)
    assert {pair.test for pair in table.comparisons} == {"Mann-Whitney U"}


def test_mixed_rows_are_paired_where_each_seed_has_one_encoder_in_both(fake):
    for name, mean, others in (("multi", 0.70, 0), ("student", 0.71, 0), ("stranger", 0.72, 100)):
        for seed in range(8):
            manifest = {"spec": {**spec(seed), "encoder": f"encoder {seed + others}"}}
            score = mean + NOISE[seed] / 10
            fake.add(name, seed, {"cola": score, "rte": score}, settings=f"encoder {seed}", manifest=manifest)
    against = {"student": ["multi"], "stranger": ["multi"]}
    table = make(fake, "multi", "student", "stranger", against=against, tested=["average"], mix=True)
    assert [(pair.row, pair.paired) for pair in table.comparisons] == [("student", True), ("stranger", False)]
    assert table.comparisons[0].p == pytest.approx(2 / 2**8)


def test_rows_that_start_from_a_pretrained_encoder_are_paired_since_their_heads_are_new(fake):
    fake.add_run("pretrain", 0, {}, tasks=[])
    add_row(fake, "multi", 70, init_from="pretrain")
    add_row(fake, "student", 71, init_from="pretrain")
    (pair,) = make(fake, "multi", "student", against={"student": ["multi"]}, tested=["average"]).comparisons
    assert pair.paired


def test_rows_with_other_seeds_are_not_paired(fake):
    add_row(fake, "multi", 70)
    add_row(fake, "student", 71, seeds=7)
    assert not make(fake, "multi", "student", against={"student": ["multi"]}).comparisons[0].paired


@pytest.mark.parametrize(("seeds", "verdict", "marks"), [(5, TOO_FEW, ""), (6, "better", "*")])
def test_below_six_seeds_there_is_no_interval_and_no_mark(fake, seeds, verdict, marks):
    add_row(fake, "multi", 50, seeds=seeds)
    add_row(fake, "student", 90, seeds=seeds)
    table = make(fake, "multi", "student", against={"student": ["multi"]}, tested=["average"])
    (pair,) = table.comparisons
    assert pair.verdict == verdict
    assert table.cells["student"]["average"].marks == marks
    assert math.isnan(pair.interval.low) == math.isnan(pair.p) == (seeds < 6)
    assert math.isnan(table.cells["student"]["average"].interval.low) == (seeds < 6)
    assert ("No interval and no test with fewer than 6 seeds: Multi, Student." in legend(table)) == (seeds < 6)


def test_a_difference_that_the_seeds_cannot_show_is_undetermined_with_its_interval(fake):
    add_row(fake, "multi", 70)
    for seed, noise in enumerate(reversed(NOISE)):
        score = (70.1 + noise) / 100
        fake.add("student", seed, {"cola": score, "rte": score}, manifest={"spec": spec(seed, "uniform")})
    table = make(fake, "multi", "student", against={"student": ["multi"]}, tested=["average"])
    (pair,) = table.comparisons
    assert pair.verdict == "undetermined"
    assert pair.interval.low < pair.difference < pair.interval.high
    (line,) = [line for line in legend(table) if line.startswith("Undetermined")]
    assert line.startswith("Undetermined with these seeds: Student against Multi, average: +0.1 points (-0.")
    assert comparisons(table)[1][-1] == "undetermined"


def test_the_mean_of_medians_stands_beside_the_median_of_averages(fake):
    """Medians 50 and 60, so 55; averages 50, 40 and 65, so 50."""
    for seed, (cola, rte) in enumerate([(0.5, 0.5), (0.2, 0.6), (0.6, 0.7)]):
        fake.add("single", seed, {"cola": cola, "rte": rte})
    table = make(fake, "single")
    assert heading(table)[2:4] == ["average", "mean of medians"]
    assert body(table, short=True)[0][2:4] == ["50.0", "55.0"]


GLUE = {
    "cola": {"matthews": 0.6},
    "sst2": {"accuracy": 0.93},
    "mrpc": {"accuracy": 0.88, "f1": 0.92},
    "stsb": {"spearman": 0.90, "pearson": 0.88},
    "qqp": {"accuracy": 0.91, "f1": 0.89},
    "mnli": {"accuracy": 0.86},
    "qnli": {"accuracy": 0.92},
    "rte": {"accuracy": 0.70},
}


def test_the_glue_score_averages_two_metrics_and_both_sets_of_mnli(fake):
    fake.add("single", 0, GLUE)
    table = make(fake, "single")
    assert table.columns[:2] == ["average", "GLUE"]
    assert table.cells["single"]["GLUE"].median == pytest.approx((60 + 93 + 90 + 89 + 90 + 86 + 92 + 70) / 8)
    assert table.cells["single"]["average"].median == pytest.approx((60 + 93 + 88 + 90 + 91 + 86 + 92 + 70) / 8)


def test_the_glue_score_counts_mismatched_mnli_where_it_is_scored(fake):
    data = dict.fromkeys(GLUE, "d")  # rows that are only scored do not make a job another one
    fake.add("single", 0, GLUE | {"mnli_mm": {"accuracy": 0.88}}, average=list(GLUE), data=data)
    cell = make(fake, "single").cells["single"]["GLUE"]
    assert cell.median == pytest.approx((60 + 93 + 90 + 89 + 90 + 87 + 92 + 70) / 8)
    fake.add("single", 1, GLUE)  # a seed without it: then no seed counts it
    cell = make(fake, "single").cells["single"]["GLUE"]
    assert (cell.n, cell.median) == (2, pytest.approx((60 + 93 + 90 + 89 + 90 + 86 + 92 + 70) / 8))


@pytest.mark.parametrize("missing", ["qnli", "mrpc"])
def test_there_is_no_glue_score_without_a_task_or_a_metric(fake, missing):
    scores = {task: dict(values) for task, values in GLUE.items()}
    if missing == "qnli":
        del scores["qnli"]
    else:
        del scores["mrpc"]["f1"]
    fake.add("single", 0, scores)
    assert "GLUE" not in make(fake, "single").columns


def test_a_nan_score_is_named_and_its_seed_left_out(fake):
    fake.add("single", 0, {"cola": 0.5, "rte": 0.6})
    fake.add("single", 1, {"cola": float("nan"), "rte": 0.9})
    table = make(fake, "single")
    assert table.cells["single"]["rte"].n == 1
    assert "Single: seed 1: left out, as its score of cola is NaN or missing." in legend(table)
    assert "nan" not in markdown(table)
    only = make_only_nan(fake)
    with pytest.raises(ValueError, match=r"no finished job of broken .*; broken: seed 0: left out, as its score"):
        collect(only, read_records(fake.store), fake.store, TableFilter())


def make_only_nan(fake: FakeStore) -> TableConfig:
    fake.add("broken", 0, {"rte": float("nan")})
    return TableConfig(title="T", rows={"broken": "Broken"})


def test_a_copied_job_counts_once(fake):
    record = fake.add("single", 0, {"rte": 0.5})
    fake.add("single", 1, {"rte": 0.7})
    folder = fake.store.root / "jobs"
    (folder / "copy.json").write_text((folder / f"{record.id}.json").read_text())
    again = json.loads((folder / f"{record.id}.json").read_text()) | {"scale": "demo", "stages": {"again": record.last}}
    fake.write(type(record)(**again))  # the same Run under another name of its stage
    assert make(fake, "single", mix=True).cells["single"]["rte"].n == 2
    assert make(fake, "single").cells["single"]["rte"].n == 2


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"versions": VERSIONS | {"bam-lightning": "0.3.0"}}, "bam-lightning 0.3.0"),
        ({"precision": "bf16-mixed"}, "precision bf16-mixed"),
    ],
)
def test_rows_of_another_version_or_precision_are_not_compared(fake, changed, difference):
    fake.add("single", 0, {"rte": 0.5})
    fake.add("multi", 0, {"rte": 0.6}, manifest=changed)
    with pytest.raises(ValueError, match=rf"^rows 'single' and 'multi' differ in code \(.*; .*{difference}.*\); "):
        make(fake, "single", "multi")


@pytest.mark.parametrize(
    ("name", "value", "title"),
    [("device_kind", "cuda", "device kind"), ("threads", 8, "threads"), ("processes", 4, "processes")],
)
def test_rows_and_seeds_of_other_hardware_are_named(fake, name, value, title):
    usual = MACHINE[name]
    fake.add("single", 0, {"rte": 0.5})
    fake.add("multi", 0, {"rte": 0.6}, manifest={name: value})
    assert f"Multi: {title} is {value}, but {usual} in row Single." in legend(make(fake, "single", "multi"))
    fake.add("single", 1, {"rte": 0.5}, manifest={name: value})
    values = "; ".join(sorted([f"{usual} (seed 0)", f"{value} (seed 1)"]))
    assert f"Single: trained with different {title}: {values}." in legend(make(fake, "single", "multi"))


def claim(kind: str, *rows: str, **fields) -> ClaimConfig:
    return ClaimConfig(text="C", kind=kind, rows=list(rows), **fields)


@pytest.mark.parametrize(("student", "verdict"), [(75, HOLDS), (71, UNDETERMINED), (70, OPPOSITE)])
def test_an_interaction_compares_two_gains(fake, student, verdict):
    """Gains of 5, 1 and 0 points over Multi, against 1 point of Single->Single over Single."""
    for name, mean, scale in (("student", student, 1), ("multi", 70, -1), ("again", 61, 1), ("single", 60, -1)):
        add_row(fake, name, mean, scale * 0.5)
    rows = ("student", "multi", "again", "single")
    (result,) = make(fake, *rows, claims=[claim("interaction", *rows)]).claims
    assert result.estimate == pytest.approx(student - 71, abs=1e-9)
    assert result.verdict == verdict
    assert result.test == "sign-flip test of the interaction, paired by seed"


def test_a_student_is_compared_with_its_own_teachers_task_by_task(fake):
    """Teachers at 60 and 80; students at 65 and 75, so one task is above and one below."""
    for task, score in (("cola", 0.60), ("rte", 0.80)):
        fake.add_run(f"teacher-{task}", 0, {task: {"accuracy": score}})
    teachers = {"cola": "teacher-cola", "rte": ["teacher-rte"]}
    for seed, noise in enumerate(NOISE):
        scores = {"cola": 0.65 + noise / 100, "rte": 0.75 + noise / 100}
        fake.add("student", seed, scores, manifest={"teachers": teachers, "spec": spec(seed)})
    table = make(fake, "student", claims=[claim("surpasses_teacher", "student")])
    by_task = {result.column: result for result in table.claims}
    assert by_task["cola"].estimate == pytest.approx(5.0)
    assert by_task["rte"].estimate == pytest.approx(-5.0)
    assert (by_task["cola"].verdict, by_task["rte"].verdict) == (HOLDS, OPPOSITE)
    assert by_task["cola"].test == "sign-flip test of student - teacher (1 teacher)"


@pytest.mark.parametrize(("scale", "verdict"), [(0.1, HOLDS), (1.0, UNDETERMINED), (20, OPPOSITE)])
def test_spread_is_a_ratio_of_standard_deviations(fake, scale, verdict):
    add_row(fake, "multi", 70, scale=scale)
    add_row(fake, "single", 60)
    (result,) = make(fake, "multi", "single", claims=[claim("spread", "multi", "single")]).claims
    assert result.estimate == pytest.approx(scale)
    assert result.verdict == verdict


@pytest.mark.parametrize(("mean", "verdict"), [(70.05, HOLDS), (70.5, UNDETERMINED), (75, UNDETERMINED)])
def test_equivalence_needs_a_difference_below_the_margin(fake, mean, verdict):
    add_row(fake, "multi", 70)
    add_row(fake, "ablation", mean, scale=0.9)
    (result,) = make(fake, "multi", "ablation", claims=[claim("equivalence", "ablation", "multi", margin=0.5)]).claims
    assert result.estimate == pytest.approx(mean - 70)
    assert result.verdict == verdict
    assert result.test == "two one-sided t tests, margin 0.5, paired by seed"


@pytest.mark.parametrize(("mean", "verdict"), [(72, HOLDS), (70.01, UNDETERMINED), (68, OPPOSITE)])
def test_a_row_is_above_another(fake, mean, verdict):
    add_row(fake, "student", mean, scale=0.9)
    add_row(fake, "again", 70, scale=-1)
    (result,) = make(fake, "student", "again", claims=[claim("above", "student", "again")]).claims
    assert (result.estimate, result.verdict) == (pytest.approx(mean - 70, abs=0.2), verdict)
    assert result.test == "sign-flip test, paired by seed"


@pytest.mark.parametrize(("collapsed", "verdict"), [(6, HOLDS), (1, UNDETERMINED)])
def test_the_share_of_collapsed_scores_is_compared_over_seeds(fake, collapsed, verdict):
    """Of 8 single-task seeds with 2 tasks each, ``collapsed`` are at the floor of one task, none of Multi's."""
    for seed in range(8):
        fake.add("single", seed, {"cola": 0.0 if seed < collapsed else 0.5, "rte": 0.6})
        fake.add("multi", seed, {"cola": 0.5, "rte": 0.6})
    floors = {"cola": 0.0, "rte": 52.7, "qnli": 50.5}
    (result,) = make(fake, "multi", "single", claims=[claim("collapse", "multi", "single", floors=floors)]).claims
    assert result.estimate == pytest.approx(-100 * collapsed / 16)
    assert (result.column, result.n, result.verdict) == ("cola, rte", 8, verdict)
    assert "(0 of 16 against " + f"{collapsed} of 16)" in result.test


def test_without_any_collapse_there_is_nothing_to_test(fake):
    add_row(fake, "multi", 70)
    add_row(fake, "single", 60)
    claims_ = [claim("collapse", "multi", "single", floors={"cola": 0})]
    (result,) = make(fake, "multi", "single", claims=claims_).claims
    assert (result.estimate, result.verdict) == (0, "cannot be tested: no seed differs from any other")
    claims_ = [claim("collapse", "multi", "single", floors={"qnli": 0})]
    (result,) = make(fake, "multi", "single", claims=claims_).claims
    assert (result.n, result.verdict) == (0, TOO_FEW)


def test_claims_of_few_seeds_have_an_estimate_and_no_verdict(fake):
    for name in ("a", "b", "c", "d"):
        add_row(fake, name, 70, seeds=3)
    config = [claim("interaction", "a", "b", "c", "d"), claim("spread", "a", "b"), claim("equivalence", "a", "b")]
    table = make(fake, "a", "b", "c", "d", claims=config)
    assert {result.verdict for result in table.claims} == {TOO_FEW}
    assert all(math.isnan(result.p) for result in table.claims)
    assert "### Claims" in markdown(table)
    assert len(claims(table)) == 4


def test_claims_have_a_correction_of_their_own(fake):
    add_row(fake, "multi", 70, scale=0.1)
    add_row(fake, "single", 60)
    config = [claim("spread", "multi", "single"), claim("equivalence", "multi", "single", margin=20)]
    results = make(fake, "multi", "single", claims=config).claims
    smaller = min(results, key=lambda result: result.p)
    assert smaller.adjusted == pytest.approx(2 * smaller.p)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"kind": "spred", "rows": ["a", "b"]}, "table t: claims.kind names 'spred'; choices: interaction, "),
        ({"kind": "spread", "rows": ["a"]}, "table t: a claim of kind spread needs 2 rows, got ['a']"),
        ({"kind": "spread", "rows": ["a", "c"]}, "table t: claims.rows names 'c'; choices: a, b"),
        ({"kind": "spread", "rows": ["a", "b"], "margin": 0}, "table t: claims.margin must be above 0, got 0"),
    ],
)
def test_a_bad_claim_is_named(config, expected):
    table = TableConfig(rows={"a": "A", "b": "B"}, claims=[ClaimConfig(**config)])
    with pytest.raises(ValueError) as caught:
        table.check("t")
    assert str(caught.value).startswith(expected)
