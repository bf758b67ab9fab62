"""Tasks that are scored with another task's head and not trained, as MNLI's mismatched dev set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bam_lightning.config.compose import compose
from bam_lightning.data.examples import load_split
from bam_lightning.data.task import task_from_config
from bam_lightning.recipes.runner import run_recipe, scored_rows
from bam_lightning.store.run_store import Store

OTHER = "+task@suite.tasks.rte_mm=mnli_mm suite.tasks.rte_mm.subset=rte suite.tasks.rte_mm.text=[sentence1,sentence2]"


@pytest.fixture
def words(tiny_job, tiny_data) -> list[str]:
    """A multi-task job with another dev set of rte."""
    rows = {"sentence1": ["the cat", "a dog", "it", "who"] * 5, "sentence2": ["eats", "rests"] * 10}
    table = pa.table({**rows, "label": [0, 1, 1, 0] * 5, "idx": range(20)})
    parquet.write_table(table, tiny_data / "rte" / "validation_mismatched.parquet")
    more = ["suite.tasks.rte_mm.head_of=rte", "suite.include=[rte,stsb,rte_mm]", "recipe=multi"]
    return [*(word for word in tiny_job if not word.startswith("suite.include")), *OTHER.split(), *more]


def test_another_dev_set_is_scored_with_the_head_and_counts_in_no_average(words, tiny_data, tmp_path, capsys):
    results = run_recipe(compose(words), tmp_path / "out")
    (run,) = results["runs"]
    assert set(run["metrics"]) == {"rte", "stsb", "rte_mm"}
    assert results["average"]["multi"] == pytest.approx(
        (run["metrics"]["rte"]["accuracy"] + run["metrics"]["stsb"]["spearman"]) / 2
    )
    assert "rte_mm (not in average)" in " ".join(capsys.readouterr().out.split())
    store = Store(f"{tmp_path}/store")
    logits = store.read_predictions(run["id"], "rte_mm", "dev")
    config = compose(words)
    rows = scored_rows(config)["rte_mm"]
    right = [logits[key].argmax() == label for key, label in zip(rows.keys, rows.labels, strict=True)]
    assert run["metrics"]["rte_mm"]["accuracy"] == pytest.approx(np.mean(right))
    rte = task_from_config("rte", config.suite.tasks["rte"], config.data)
    assert not set(rows.keys) & set(load_split("rte", rte, "dev").keys)  # another set


def test_a_folder_need_not_have_it_and_ids_do_not_depend_on_it(words, tiny_data, tmp_path):
    with_it = run_recipe(compose(words), tmp_path / "with")["runs"][0]
    (tiny_data / "rte" / "validation_mismatched.parquet").unlink()
    assert not scored_rows(compose(words))
    without = run_recipe(compose(words), tmp_path / "without")["runs"][0]
    assert without["id"] == with_it["id"]
