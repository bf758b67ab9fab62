"""Heads of choices, tags and answers against torch and transformers, one example at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bam_lightning.models.batch import ABSENT
from bam_lightning.models.heads import ChoiceHead, SpanHead, TaggingHead, decode
from bam_lightning.store.ragged import Ragged
from bam_lightning.training.distillation import ensemble_mean

COUNTS = [3, 1, 5, 2]
OFFSETS = torch.tensor([0, 3, 4, 9, 11])
NAMES = ["O", "B-X", "I-X"]


def parts(values: torch.Tensor) -> list[torch.Tensor]:
    return list(values.split(COUNTS))


def test_choices_are_scored_by_one_layer_and_softened_within_their_example():
    head = ChoiceHead(8, ["a", "b", "c", "d", "e"]).eval()
    vectors, labels = torch.randn(11, 8), torch.tensor([2, 0, 4, 1])
    logits = head(vectors, OFFSETS)
    scores = parts((vectors @ head.linear.weight.T + head.linear.bias)[:, 0])
    loss = head.loss(logits, head.encode_labels(labels))
    expected = [F.cross_entropy(one[None], label[None]) for one, label in zip(scores, labels, strict=True)]
    torch.testing.assert_close(loss, torch.stack(expected), atol=1e-6, rtol=0)
    assert head.decode(logits).tolist() == [int(one.argmax()) for one in scores]
    found = head.probabilities(logits)
    assert found.shape == (4, 5)
    for row, one in zip(found, scores, strict=True):
        torch.testing.assert_close(row[: len(one)], one.softmax(0), atol=1e-6, rtol=0)
        assert row[len(one) :].eq(0).all()
    assert head.outputs == 5
    gradient = torch.autograd.grad(loss.sum(), head.linear.weight)[0]
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("reduced", [False, True])
def test_the_loss_of_tags_is_the_mean_over_an_examples_tagged_words(reduced):
    head, logits = TaggingHead(8, NAMES), torch.randn(11, 3)
    labels = torch.randint(0, 3, (11,))
    if reduced:
        labels[[1, 3, 9]] = -1  # one word of the first example, the only one of the second, one of the last
    loss = head.loss(logits, head.encode_labels(labels, OFFSETS), OFFSETS)
    means = [F.cross_entropy(*pair, ignore_index=-1) for pair in zip(parts(logits), parts(labels), strict=True)]
    torch.testing.assert_close(loss, torch.stack(means).nan_to_num(0), atol=1e-6, rtol=0)  # nothing to learn: 0


def test_an_untrained_tag_costs_as_much_as_an_untrained_class():
    head = TaggingHead(8, NAMES)
    labels = torch.randint(0, 3, (11,))
    loss = head.loss(torch.zeros(11, 3), head.encode_labels(labels), OFFSETS)
    assert loss.tolist() == pytest.approx([np.log(3)] * 4, abs=1e-6)


def test_a_cut_word_has_no_tag_and_an_ensemble_averages_those_who_saw_it():
    head, logits = TaggingHead(8, NAMES), torch.randn(11, 3)
    logits[4] = ABSENT
    assert head.decode(logits).tolist() == [-1 if i == 4 else int(logits[i].argmax()) for i in range(11)]
    members = torch.stack([logits, torch.randn(11, 3)], dim=1)  # [m, k, K]
    mean = head.to_target_space(members).mean(dim=1)
    torch.testing.assert_close(mean.sum(dim=-1), torch.ones(11), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean[4], members[4, 1].softmax(-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean[5], members[5].softmax(-1).mean(0), atol=1e-6, rtol=0)


def test_the_loss_of_an_answer_is_that_of_transformers():
    """Berts's head: the mean of the cross-entropies of start and end over the words of one text."""
    head, logits = SpanHead(8), torch.randn(11, 2)
    labels = torch.tensor([[0, 2], [0, 0], [1, 4], [1, 1]])
    loss = head.loss(logits, head.encode_labels(labels, OFFSETS), OFFSETS)
    expected = [
        (F.cross_entropy(one[:, 0][None], label[:1]) + F.cross_entropy(one[:, 1][None], label[1:])) / 2
        for one, label in zip(parts(logits), labels, strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(expected), atol=1e-6, rtol=0)


def test_the_target_of_an_answer_is_a_softmax_over_its_words():
    head, logits = SpanHead(8), 30 * torch.randn(11, 2)
    logits[5] = ABSENT
    for values in (logits, torch.stack([logits, torch.randn(11, 2)], dim=1)):
        found = head.to_target_space(values, OFFSETS)
        expected = torch.cat([part.softmax(dim=0) for part in parts(values)])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert head.to_target_space(logits, OFFSETS)[5].tolist() == [0, 0]


def test_an_ensemble_of_answers_averages_the_members_that_saw_the_example():
    head, members = SpanHead(8), torch.randn(11, 3, 2)  # [m, k, 2]
    members[3] = ABSENT  # nobody saw the second example
    members[4:9, 0] = ABSENT  # two of three saw the third
    members[9:, :2] = ABSENT  # one saw the last
    members[0, 1] = ABSENT  # a word that one member did not see, which saw the example
    mean = ensemble_mean(head.to_target_space(members, OFFSETS))
    known = parts(members)
    assert mean[3].tolist() == [0, 0]
    for row, seen in ((0, [0, 1, 2]), (2, [1, 2]), (3, [2])):
        expected = known[row][:, seen].softmax(dim=0).mean(dim=1)
        torch.testing.assert_close(parts(mean)[row], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("longest", [1, 2, 30])
@pytest.mark.parametrize("seed", range(10))
def test_the_answer_is_the_best_of_all_spans_that_are_not_too_long(longest, seed):
    torch.manual_seed(seed)
    head, logits = SpanHead(8, longest=longest), torch.randn(11, 2)
    best = []
    for part in parts(logits.log_softmax(0)):
        spans = [(a, b) for a in range(len(part)) for b in range(a, min(a + longest, len(part)))]
        best.append(list(max(spans, key=lambda span, part=part: part[span[0], 0] + part[span[1], 1])))
    assert head.decode(logits, OFFSETS).tolist() == best
    assert decode(head, Ragged(logits.numpy(), OFFSETS.numpy())).tolist() == best


@pytest.mark.parametrize("head", [TaggingHead(8, NAMES), SpanHead(8)])
def test_no_examples_are_no_loss(head):
    logits, offsets = torch.empty(0, head.outputs), torch.tensor([0])
    labels = torch.empty((0, 2) if isinstance(head, SpanHead) else 0, dtype=torch.long)
    assert head.loss(logits, head.encode_labels(labels, offsets), offsets).shape == (0,)
    assert len(head.decode(logits, offsets)) == 0
