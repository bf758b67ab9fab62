"""Metrics of words against seqeval, and against torchmetrics' SQuAD, on random predictions."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from torchmetrics.functional.text import squad

from bam_lightning.metrics.scores import METRICS, row_counts, scores
from bam_lightning.metrics.torch_metrics import TaskMetric
from bam_lightning.metrics.words import Answers, answer_score, answer_scores

IOB = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
IOBES = [*IOB, "E-PER", "S-PER", "E-LOC", "S-LOC"]


def draw_tags(names: list[str], seed: int, rows: int = 40):
    """Return predictions and gold of rows of 1 to 12 words, half of the predictions right, and their offsets."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 13, rows))])
    gold = rng.integers(0, len(names), offsets[-1])
    return np.where(rng.random(len(gold)) < 0.5, gold, rng.integers(0, len(names), len(gold))), gold, offsets


def named(tags, offsets, names):
    return [[names[tag] for tag in tags[start:end]] for start, end in pairwise(offsets)]


@pytest.mark.parametrize("names", [IOB, IOBES, ["O", "I-A", "I-B"], ["O", "PER", "LOC"]])
@pytest.mark.parametrize("seed", range(10))
def test_scores_of_tags_are_seqevals(names, seed):
    predictions, gold, offsets = draw_tags(names, seed)
    counts = row_counts("span_f1", predictions, gold, offsets, names)
    found = scores(counts, counts, "span_f1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns of tags without a scheme
        sides = named(gold, offsets, names), named(predictions, offsets, names)
        expected = [score(*sides) for score in (f1_score, precision_score, recall_score)]
    names_of = ("span_f1", "span_precision", "span_recall")
    assert [found[name] for name in names_of] == pytest.approx(expected, abs=1e-12)
    assert found["tag_accuracy"] == pytest.approx(np.mean(predictions == gold), abs=1e-12)


def test_a_word_that_was_cut_counts_as_outside_and_a_word_without_gold_not_at_all():
    names, offsets = IOB, np.array([0, 4])
    counts = row_counts("span_f1", np.array([1, -1, -1, 3]), np.array([1, 2, 3, -1]), offsets, names)
    expected = row_counts("span_f1", np.array([1, 0, 0]), np.array([1, 2, 3]), np.array([0, 3]), names)
    assert counts.tolist() == expected.tolist() == [[0, 1, 2, 1, 3]]


def test_rows_do_not_touch():
    """I-PER at the start of a row does not go on with the span of the row before; an empty row counts nothing."""
    counts = row_counts("span_f1", np.array([1, 2]), np.array([1, 2]), np.array([0, 1, 1, 2]), IOB)
    assert counts[:, :3].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]


WORDS = "the a an The cat, Cat. dog's U.S. it's 1990s; in of — (paris) Paris Zürich".split()


@pytest.mark.parametrize("seed", range(20))
def test_scores_of_answers_are_torchmetrics_squad(seed):
    rng = np.random.default_rng(seed)
    say = lambda: " ".join(rng.choice(WORDS, int(rng.integers(0, 6))))  # noqa: E731
    predictions, gold = [say() for _ in range(30)], [[say() for _ in range(int(rng.integers(1, 4)))] for _ in range(30)]
    counts = np.array([answer_score(*pair) for pair in zip(predictions, gold, strict=True)])
    found = scores(counts, counts, "squad_f1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = squad(
            [{"prediction_text": text, "id": str(row)} for row, text in enumerate(predictions)],
            [
                {"answers": {"text": texts, "answer_start": [0] * len(texts)}, "id": str(row)}
                for row, texts in enumerate(gold)
            ],
        )
    assert found["squad_exact_match"] == pytest.approx(float(theirs["exact_match"]) / 100, abs=1e-6)
    assert found["squad_f1"] == pytest.approx(float(theirs["f1"]) / 100, abs=1e-6)


def test_an_answer_is_the_text_between_two_words():
    known = Answers("Who? The cat.", np.array([[0, 3], [3, 4], [5, 8], [9, 12], [12, 13]]), ("cat",))
    assert (known.text_of(2, 4), known.text_of(-1, -1)) == ("The cat.", "")
    assert answer_scores(np.array([[2, 4], [-1, -1]]), [known, known]).tolist() == [[1, 1], [0, 0]]


def test_batches_and_empty_batches_add_up():
    predictions, gold, offsets = draw_tags(IOB, 0)
    metric = TaskMetric("span_f1", len(IOB), IOB)
    cut = 17
    for first, last in ((0, cut), (cut, cut), (cut, len(offsets) - 1)):
        words = slice(offsets[first], offsets[last])
        part = torch.from_numpy(offsets[first : last + 1] - offsets[first])
        metric.update(torch.from_numpy(predictions[words]), torch.from_numpy(gold[words]), part)
    counts = row_counts("span_f1", predictions, gold, offsets, IOB)
    assert metric.compute() == pytest.approx(METRICS["span_f1"](counts, counts), abs=1e-12)
    answers = TaskMetric("squad_f1")
    known = Answers("a cat", np.array([[0, 1], [2, 5]]), ("cat",))
    answers.update(torch.tensor([[1, 1]]), torch.tensor([[1, 1]]), torch.tensor([0, 2]), (known,))
    answers.update(torch.empty(0, 2).long(), torch.empty(0, 2).long(), torch.tensor([0]), ())
    assert answers.compute() == 1.0
