"""The generated suite: the same rows for the same seed everywhere, and GLUE's sizes in small."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from bam_lightning.data.demo_tasks import DEMO_TASKS, LABELS, generate_sentences, generate_splits

CONF = Path(__file__).parents[2] / "conf" / "task"
GLUE = {
    "acceptability": 8551,
    "sentiment": 67349,
    "paraphrase": 3668,
    "similarity": 5749,
    "question_paraphrase": 363846,
    "entailment": 392702,
    "answer_entailment": 104743,
    "small_entailment": 2490,
}
CLASSES = [kind for kind in DEMO_TASKS if isinstance(LABELS[kind], list)]
SINGLES = ("acceptability", "sentiment")


def pairs(columns: dict[str, list]) -> list[tuple[str, ...]]:
    texts = [columns[name] for name in ("text_a", "text_b") if name in columns]
    return list(zip(*texts, strict=True))


@pytest.mark.parametrize("kind", DEMO_TASKS)
def test_rows_have_the_sizes_columns_and_labels_promised(kind):
    data = generate_splits(kind, 300, 100, seed=1)
    columns = ["idx", "text_a", "label"] if kind in SINGLES else ["idx", "text_a", "text_b", "label"]
    assert list(data) == ["train", "validation"]
    for split, size in (("train", 300), ("validation", 100)):
        assert list(data[split]) == columns
        assert {len(values) for values in data[split].values()} == {size}
        assert data[split]["idx"] == list(range(size))
        assert all(text.strip() for row in pairs(data[split]) for text in row)
        labels, known = data[split]["label"], LABELS[kind]
        if isinstance(known, list):
            assert set(labels) == set(range(len(known)))
        else:
            assert known[0] <= min(labels) < max(labels) <= known[1]


@pytest.mark.parametrize("kind", DEMO_TASKS)
def test_no_row_stands_in_both_splits_or_twice(kind):
    data = generate_splits(kind, 400, 200)
    assert len({*pairs(data["train"]), *pairs(data["validation"])}) == 600


@pytest.mark.parametrize("kind", DEMO_TASKS)
def test_same_seed_same_rows_and_other_seed_other_rows(kind):
    first = generate_splits(kind, 40, 20, seed=3)
    assert generate_splits(kind, 40, 20, seed=3) == first
    assert generate_splits(kind, 40, 20, seed=4) != first


@pytest.mark.parametrize("kind", DEMO_TASKS)
def test_more_training_rows_begin_with_the_fewer(kind):
    assert generate_splits(kind, 60, 5)["train"]["text_a"][:40] == generate_splits(kind, 40, 5)["train"]["text_a"]


@pytest.mark.parametrize("kind", CLASSES)
def test_no_class_is_rare_or_nearly_all(kind):
    counts = Counter(generate_splits(kind, 2000, 1)["train"]["label"])
    assert 0.30 < max(counts.values()) / 2000 < 0.70
    assert min(counts.values()) / 2000 > 0.20


def test_corpus_has_the_size_asked_for_and_follows_its_seed():
    texts = generate_sentences(200, seed=5)
    assert len(texts) == 200
    assert all(text.strip() for text in texts)
    assert generate_sentences(200, seed=5) == texts
    assert generate_sentences(200, seed=6) != texts


def test_tasks_are_written_in_the_words_of_the_corpus():
    known = set(" ".join(generate_sentences(4000)).split())
    for kind in DEMO_TASKS:
        words = {word for row in pairs(generate_splits(kind, 300, 1)["train"]) for text in row for word in text.split()}
        assert words - known <= {"mas"}, kind  # "but": the opinions of a document of the corpus agree


DIGEST = """
import hashlib, json
from bam_lightning.data.demo_tasks import DEMO_TASKS, generate_sentences, generate_splits
everything = [[generate_splits(kind, 50, 20, seed=2) for kind in DEMO_TASKS], generate_sentences(50, seed=2)]
print(hashlib.sha256(json.dumps(everything).encode()).hexdigest())
"""


@pytest.mark.slow
def test_rows_do_not_depend_on_hash_randomisation():
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        answer = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        digests.add(answer.stdout)
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


def settings(kind: str) -> dict:
    return yaml.safe_load((CONF / f"generated_{kind}.yaml").read_text())


@pytest.mark.parametrize("kind", DEMO_TASKS)
def test_train_sizes_are_those_of_glue_divided_by_sixty(kind):
    assert abs(settings(kind)["train_rows"] - GLUE[kind] / 60) <= 1


@pytest.mark.parametrize("kind", DEMO_TASKS)
def test_task_file_agrees_with_the_columns_and_labels_generated(kind):
    task, columns = settings(kind), generate_splits(kind, 1, 1)["train"]
    assert (task["path"], task["subset"]) == ("generated", kind)
    assert [*task["text"], task["id_column"]] == [name for name in columns if name.startswith("text")] + ["idx"]
    assert task["head"] in ({"label_names": LABELS[kind]}, {"label_range": list(LABELS[kind])})
