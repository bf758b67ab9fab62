"""What each task does for the others: the difference of two Runs' dev scores, with teachers trained once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.recipes.relate import Effect, RelateOptions, relate
from bam_lightning.store.run_store import Store


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
def test_effects_are_differences_of_stored_scores(pairs, tiny_job, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bam_lightning.recipes.relate.paired_bootstrap", lambda score, old, new, gold: [
        score(new, gold) - score(old, gold)
    ])  # fmt: skip
    words = [word for word in tiny_job if not word.startswith("suite.include")]
    suite = "suite.include=[rte,sst2]" if pairs else "suite.include=[rte,sst2,stsb]"
    effects = relate(RelateOptions(experiment="single_multi", pairs=pairs), [*words, suite])
    store = Store(tmp_path / "store")
    manifests = [store.manifest(path.name) for path in (store.root / "runs").iterdir()]
    students = {frozenset(m["tasks"]): m["metrics"] for m in manifests if m["stage"] == "student"}
    tasks = ["rte", "sst2"] if pairs else ["rte", "sst2", "stsb"]
    assert len(manifests) == len(tasks) + (3 if pairs else 4)  # each teacher once, and a student of each subset
    assert {(one.helper, one.task) for one in effects} == {(a, b) for a in tasks for b in tasks if a != b}
    for one in effects:
        metric = "spearman" if one.task == "stsb" else "accuracy"
        after, before = (students[frozenset(tasks) - left][one.task][metric] for left in (set(), {one.helper}))
        assert one.difference == pytest.approx(100 * (after - before), abs=1e-6)
        assert one.low == pytest.approx(one.difference) == one.high
    assert json.loads(Path("relate/relate.json").read_text())[0] == effects[0]._asdict()
    assert "minus without it" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("experiment", "words", "message"),
    [
        ("single", [], "whose last stage is one model of all tasks"),
        ("single_multi", ["suite.include=[sentiment,entailment]"], "needs more tasks than sentiment, entailment"),
    ],
)
def test_what_cannot_be_related_is_refused(experiment, words, message):
    with pytest.raises(ConfigError, match=message):
        relate(RelateOptions(experiment=experiment), words)


def test_a_teacher_from_outside_teaches_where_its_task_is_trained(monkeypatch):
    taught = {}

    def run(config, output):
        taught[tuple(config.suite.trained())] = list(config.teachers)
        return {"runs": [{"id": "-".join(config.suite.trained())}]}

    monkeypatch.setattr("bam_lightning.recipes.relate.run_recipe", run)
    monkeypatch.setattr("bam_lightning.recipes.relate._effect", lambda config, a, b, *runs: Effect(a, b, 0.0, 0.0, 0.0))
    words = ["suite.include=[sentiment,similarity,acceptability]", "teachers.sentiment=answers.csv"]
    relate(RelateOptions(experiment="single_multi"), words)
    assert len(taught) == 4
    assert all(teachers == ["sentiment"] * ("sentiment" in tasks) for tasks, teachers in taught.items())
