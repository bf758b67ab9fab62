"""Where the texts of a block lie when its padding is taken out: one row of tokens, the texts in it by length.

Everything but attention works on single tokens, so it can work on that row. Attention needs the texts; on a CPU those
of like length are computed together. B texts, T tokens of the longest, N tokens of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GROUP_TOKENS = 64  # what one more group costs attention, in tokens; measured on two CPU cores
BUCKET_BITS = (
    5  # bits of a number of rows: for each new number the kernels are made anew, which takes as long as some rows
)
LANES = 16  # attention's rows are filled up to a multiple of it: the kernels are several times slower on others


class Group(NamedTuple):
    """Texts that attention pads to ``longest``: the row's tokens ``first`` to ``last``. None: nothing to pad."""

    first: int
    last: int
    texts: int
    longest: int
    shortest: int
    fill: Tensor | None  # [texts * longest] token of the group for each place; for padding any
    kept: Tensor | None  # [last - first] place of each token
    pads: Tensor | None  # places of padding
    mask: Tensor | None  # [texts, 1, 1, longest - shortest]: true at padding


class Packing(NamedTuple):
    """``groups`` is empty where attention has a kernel for rows like this one, which needs ``offsets`` only."""

    take: Tensor  # [N] place of each token in the flattened block [B * T]
    positions: Tensor  # [N] place of each token in its text
    firsts: Tensor  # [B] place in the row of each text's first token, in the order of the block
    offsets: Tensor  # [B + 1] int32: where texts begin, in the order of the row
    longest: int
    groups: tuple[Group, ...]

    def to(self, device: torch.device) -> Packing:
        """Return it with its tensors on a device; to a GPU by way of pinned memory, so that the host waits for none."""
        if device.type == "cpu":
            return self
        take, positions, firsts, offsets = (one.pin_memory().to(device, non_blocking=True) for one in self[:4])
        return Packing(take, positions, firsts, offsets, self.longest, self.groups)


def pack(lengths: Sequence[int], width: int, grouped: bool) -> Packing:
    """Return where the tokens of B texts lie in one row.

    Args:
        lengths: tokens of each text of a block ``[B, width]``.
        width: T.
        grouped: whether attention needs groups.

    >>> pack([3, 1], width=3, grouped=False).take.tolist()
    [3, 0, 1, 2]
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    ordered = sizes[order]
    offsets = np.concatenate([[0], np.cumsum(ordered)])
    count = int(offsets[-1])
    positions, take = np.zeros((2, round_to_bucket(count) if grouped else count), dtype=np.int64)
    positions[:count] = np.arange(count) - np.repeat(offsets[:-1], ordered)
    take[:count] = np.repeat(order * width, ordered) + positions[:count]
    firsts = np.empty_like(sizes)
    firsts[order] = offsets[:-1]
    return Packing(
        torch.from_numpy(take),
        torch.from_numpy(positions),
        torch.from_numpy(firsts),
        torch.from_numpy(offsets.astype(np.int32)),
        int(ordered[-1]),
        tuple(_groups(ordered, offsets)) if grouped else (),
    )


def round_to_bucket(count: int) -> int:
    """Return the next number at or above ``count`` of ``FINENESS`` bits: at most a sixteenth more.

    >>> round_to_bucket(15), round_to_bucket(17), round_to_bucket(3400)
    (15, 17, 3456)
    """
    step = 1 << max(0, count.bit_length() - BUCKET_BITS)
    return -(-count // step) * step


def _groups(ordered: NDArray[np.int64], offsets: NDArray[np.int64]) -> list[Group]:
    groups, start = [], 0
    for end in [*_cuts(ordered), len(ordered)]:
        groups.append(_group(ordered[start:end], int(offsets[start]), int(offsets[end])))
        start = end
    return groups


def _cuts(ordered: NDArray[np.int64]) -> list[int]:
    """Return where to begin new groups of sorted texts so that padded tokens and groups cost least."""
    sizes, counts = np.unique(-(-ordered // LANES) * LANES, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    best, cut = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, dtype=np.int64)
    for end in range(1, len(sizes) + 1):
        costs = best[:end] + (before[end] - before[:end]) * sizes[end - 1]
        cut[end] = int(np.argmin(costs))
        best[end] = costs[cut[end]] + GROUP_TOKENS
    cuts, end = [], int(cut[len(sizes)])
    while end:
        cuts.append(int(before[end]))
        end = int(cut[end])
    return cuts[::-1]


def _group(lengths: NDArray[np.int64], first: int, last: int) -> Group:
    texts, longest, shortest = round_to_bucket(len(lengths)), int(-(-lengths[-1] // LANES) * LANES), int(lengths[0])
    if texts * longest == last - first:
        return Group(first, last, texts, longest, shortest, None, None, None, None)
    places, sizes = np.arange(longest), np.zeros(texts, dtype=np.int64)
    sizes[: len(lengths)] = lengths
    real = places[None, :] < sizes[:, None]  # [texts, longest]
    begins = np.cumsum(sizes) - sizes
    fill = np.where(real, begins[:, None] + places[None, :], 0).reshape(-1)
    flat = real.reshape(-1)
    return Group(
        first,
        last,
        texts,
        longest,
        shortest,
        torch.from_numpy(fill),
        torch.from_numpy(np.flatnonzero(flat)),
        torch.from_numpy(np.flatnonzero(~flat)),
        torch.from_numpy(~real[:, None, None, shortest:]),
    )
