"""A packed row holds every token once, and its groups cost least."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bam_lightning.models import packing
from bam_lightning.models.packing import pack, round_to_bucket, split_by_length


def drawn(seed, texts=40, longest=70):
    return sorted(np.random.default_rng(seed).integers(1, longest, texts).tolist())


@pytest.mark.parametrize("seed", range(5))
def test_offsets_are_where_texts_begin_and_end(seed):
    lengths = drawn(seed)
    packed = pack(lengths, grouped=False)
    assert packed.offsets.tolist() == [0, *itertools.accumulate(lengths)]
    assert packed.offsets.dtype == torch.int32  # as the kernel for rows wants it
    assert packed.firsts.tolist() == packed.offsets[:-1].tolist()
    assert packed.longest == max(lengths)
    assert not packed.groups


@pytest.mark.parametrize("seed", range(5))
def test_groups_lay_every_token_once_and_mask_the_rest(seed):
    lengths = drawn(seed)
    packed = pack(lengths, grouped=True)
    left, done = list(lengths), 0
    for group in packed.groups:
        assert group.first == done
        done = group.last
        real = torch.zeros(group.texts, group.longest, dtype=torch.bool)
        start, texts = group.first, 0
        while start < group.last:
            real[texts, : left[0]] = True
            start, texts = start + left.pop(0), texts + 1
        assert start == group.last
        if group.fill is None:
            assert real.all()
            continue
        assert group.fill[group.kept].tolist() == list(range(group.last - group.first))
        assert group.kept.equal(torch.nonzero(real.view(-1))[:, 0])
        assert group.pads.equal(torch.nonzero(~real.view(-1))[:, 0])
        assert real[:texts, : group.shortest].all()
        assert group.mask[:, 0, 0].equal(~real[:, group.shortest :])
    assert done == sum(lengths)
    assert left == []


def cost(lengths, cuts):
    """Padded tokens of texts cut into groups at some places, and what the groups themselves cost."""
    edges = [0, *cuts, len(lengths)]
    widths = -(-lengths // packing.LANES) * packing.LANES
    padded = [widths[end - 1] * (end - start) for start, end in itertools.pairwise(edges)]
    return sum(padded) + packing.GROUP_TOKENS * len(padded)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cuts_of_the_sorted_texts_are_cheaper(seed):
    lengths = np.sort(drawn(seed, texts=9, longest=140))
    found = packing._cuts(lengths)
    ways = ([place for place in range(1, 9) if way >> (place - 1) & 1] for way in range(1 << 8))
    assert cost(lengths, found) == min(cost(lengths, way) for way in ways)


def test_numbers_of_rows_are_few_and_little_above_what_is_asked():
    found = [round_to_bucket(count) for count in range(1, 1 << 14)]
    assert all(count <= size <= count * 17 / 16 for count, size in enumerate(found, 1))
    assert len({size for size in found if 1 << 12 < size <= 1 << 13}) == 16


def test_a_packing_is_on_the_cpu_already():
    packed = pack([2, 3], grouped=True)
    assert packed.to(torch.device("cpu")) is packed


def parts_cost(lengths, parts, call_tokens):
    """Padded tokens of a split, and what its calls cost."""
    return sum((end - start) * lengths[end - 1] + call_tokens for start, end in parts)


def every_split(count):
    """Return every way to cut ``count`` texts into ranges."""
    for cuts in itertools.product([False, True], repeat=count - 1):
        edges = [0, *(place for place, cut in enumerate(cuts, 1) if cut), count]
        yield list(itertools.pairwise(edges))


def every_partition(numbers):
    """Return every way to part the numbers into groups, ranges or not."""
    if not numbers:
        return [[]]
    first, ways = numbers[0], []
    for rest in every_partition(numbers[1:]):
        ways.append([[first], *rest])
        ways += [[*rest[:i], [first, *group], *rest[i + 1 :]] for i, group in enumerate(rest)]
    return ways


def draw(seed, largest_count=9):
    rng = np.random.default_rng(seed)
    return sorted(rng.integers(1, 40, rng.integers(1, largest_count + 1)).tolist()), int(rng.integers(0, 60))


def test_splits_of_four_are_eight_and_partitions_fifteen():
    assert len(list(every_split(4))) == 8
    assert len(every_partition([0, 1, 2, 3])) == 15  # Bell number


@pytest.mark.parametrize("seed", range(50))
def test_a_split_is_as_cheap_as_the_best_of_all(seed):
    lengths, call_tokens = draw(seed)
    best = min(parts_cost(lengths, way, call_tokens) for way in every_split(len(lengths)))
    assert parts_cost(lengths, split_by_length(lengths, call_tokens), call_tokens) == best


@pytest.mark.parametrize("seed", range(20))
def test_no_partition_at_all_is_cheaper_than_a_split(seed):
    lengths, call_tokens = draw(100 + seed, 6)
    best = min(
        sum(len(group) * max(lengths[i] for i in group) + call_tokens for group in way)
        for way in every_partition(list(range(len(lengths))))
    )
    assert parts_cost(lengths, split_by_length(lengths, call_tokens), call_tokens) == best


@pytest.mark.parametrize("seed", range(50))
def test_a_split_respects_the_largest_call_and_is_the_best_that_does(seed):
    lengths, call_tokens = draw(seed)
    largest = int(np.random.default_rng([seed, 1]).integers(20, 120))

    def fits(parts):
        return all(end - start == 1 or (end - start) * lengths[end - 1] <= largest for start, end in parts)

    parts = split_by_length(lengths, call_tokens, largest)
    best = min(parts_cost(lengths, way, call_tokens) for way in every_split(len(lengths)) if fits(way))
    assert fits(parts)
    assert parts_cost(lengths, parts, call_tokens) == best


@pytest.mark.parametrize("call_tokens", [0, 50, 1000])
@pytest.mark.parametrize("seed", range(10))
def test_a_split_holds_every_text_once_and_is_never_dearer_than_one_part_or_one_per_text(seed, call_tokens):
    lengths = sorted(np.random.default_rng(seed).integers(3, 128, 128).tolist())
    parts = split_by_length(lengths, call_tokens)
    assert [text for start, end in parts for text in range(start, end)] == list(range(128))
    spent = parts_cost(lengths, parts, call_tokens)
    assert spent <= 128 * max(lengths) + call_tokens
    assert spent <= sum(lengths) + 128 * call_tokens


@pytest.mark.parametrize(
    ("lengths", "call_tokens", "expected"),
    [
        ([9, 10, 120, 128], 50, [(0, 2), (2, 4)]),
        ([9, 10, 120, 128], 10_000, [(0, 4)]),  # a call dearer than all padding
        ([5, 5, 5], 0, [(0, 3)]),  # equal lengths need no second call
        ([7], 50, [(0, 1)]),
        ([], 50, []),
    ],
)
def test_split_of_a_few_texts(lengths, call_tokens, expected):
    assert split_by_length(lengths, call_tokens) == expected


def test_one_text_longer_than_the_largest_call_stands_alone():
    assert split_by_length([10, 10, 500], call_tokens=1000, largest=100) == [(0, 2), (2, 3)]
