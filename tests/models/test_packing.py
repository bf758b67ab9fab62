"""A packed row holds every token once, and its groups cost least."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bam_lightning.models import packing
from bam_lightning.models.packing import pack, round_to_bucket


def drawn(seed, texts=40, longest=70):
    return np.random.default_rng(seed).integers(1, longest, texts).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_row_holds_the_real_tokens_of_the_block_shortest_text_first(seed):
    lengths = drawn(seed)
    width = max(lengths)
    block = torch.arange(len(lengths) * width).view(len(lengths), width)
    packed = pack(lengths, width, grouped=False)
    row = block.reshape(-1)[packed.take]
    for place, text in enumerate(sorted(range(len(lengths)), key=lambda one: lengths[one])):
        start, end = packed.offsets[place], packed.offsets[place + 1]
        assert row[start:end].equal(block[text, : lengths[text]])
        assert packed.positions[start:end].tolist() == list(range(lengths[text]))
        assert int(packed.firsts[text]) == int(start)
    assert int(packed.offsets[-1]) == sum(lengths) <= len(row)
    assert packed.longest == width
    assert not packed.groups


@pytest.mark.parametrize("seed", range(5))
def test_groups_lay_every_token_once_and_mask_the_rest(seed):
    lengths = drawn(seed)
    packed = pack(lengths, max(lengths), grouped=True)
    ordered, done = sorted(lengths), 0
    for group in packed.groups:
        assert group.first == done
        done = group.last
        real = torch.zeros(group.texts, group.longest, dtype=torch.bool)
        start = group.first
        texts = 0
        while start < group.last:
            real[texts, : ordered[0]] = True
            start, texts = start + ordered.pop(0), texts + 1
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
    assert ordered == []


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
    packed = pack([3, 2], 3, grouped=True)
    assert packed.to(torch.device("cpu")) is packed
