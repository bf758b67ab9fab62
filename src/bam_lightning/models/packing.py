"""Pack texts without padding into one row of tokens, sorted by length.

Only the attention of a transformer combines tokens; everything else works on the row. On a CPU attention pads texts of
similar length and computes them together. S texts, N tokens in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST_CALL = 16_384  # padded tokens in one encoder call: bounds the memory of a large minibatch
GROUP_TOKENS = 64  # cost of one more group in attention, in tokens; measured on two CPU cores
BUCKET_BITS = (
    5  # significant bits of a number of rows: oneDNN compiles kernels for each new number, so few numbers are used
)
LANES = 16  # lengths in attention are rounded up to a multiple of it; other lengths are several times slower


class Group(NamedTuple):
    """Texts that attention pads to ``longest``: tokens ``first`` to ``last`` of the row. ``None``: nothing to pad."""

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
    """The positions of texts in one row of tokens. ``groups`` is empty if attention has a kernel for such rows.

    Attributes:
        firsts: ``[S]`` position of each text's first token.
        offsets: ``[S + 1]`` int32: where texts begin and end.
        longest: tokens of the longest text.
        groups: texts of similar length, which attention on a CPU pads and computes together.
    """

    firsts: Tensor
    offsets: Tensor
    longest: int
    groups: tuple[Group, ...]

    def to(self, device: torch.device) -> Packing:
        """Return the packing on ``device``. Copies to a GPU use pinned memory, so the host does not wait."""
        if device.type == "cpu":
            return self
        firsts, offsets = (tensor.pin_memory().to(device, non_blocking=True) for tensor in self[:2])
        return Packing(firsts, offsets, self.longest, self.groups)


def pack(lengths: Sequence[int], grouped: bool) -> Packing:
    """Describe a row of texts that are sorted by length.

    Args:
        lengths: tokens of each of the S texts, shortest first.
        grouped: whether attention needs groups.

    >>> pack([1, 3], grouped=False).offsets.tolist()
    [0, 1, 4]
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Packing(
        torch.from_numpy(offsets[:-1].copy()),
        torch.from_numpy(offsets.astype(np.int32)),
        int(sizes[-1]),
        tuple(_groups(sizes, offsets)) if grouped else (),
    )


def round_to_bucket(count: int) -> int:
    """Return the next number at or above ``count`` of ``BUCKET_BITS`` bits: at most a sixteenth more.

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
    """Return the starts of new groups of sorted texts that minimize the cost of padded tokens and groups."""
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


def split_by_length(lengths: Sequence[int], call_tokens: int, largest: int = LARGEST_CALL) -> list[tuple[int, int]]:
    """Split texts that are sorted by length to minimize padded tokens plus ``call_tokens`` per part.

    Args:
        lengths: tokens of each of the S texts, shortest first.
        call_tokens: cost of one more encoder call, in tokens.
        largest: most padded tokens of a part, unless a single text is longer.

    Returns:
        The parts, as half-open ranges of texts.

    >>> split_by_length([9, 10, 120, 128], call_tokens=50)
    [(0, 2), (2, 4)]
    """
    ordered = np.asarray(lengths, dtype=np.int64)
    count = len(ordered)
    best, cut = np.zeros(count + 1, dtype=np.int64), np.zeros(count + 1, dtype=np.int64)
    starts = np.arange(count)
    for end in range(1, count + 1):
        padded = (end - starts[:end]) * ordered[end - 1]
        costs = best[:end] + padded + np.where((padded > largest) & (starts[:end] < end - 1), 1 << 40, 0)
        cut[end] = int(np.argmin(costs))
        best[end] = costs[cut[end]] + call_tokens
    parts, end = [], count
    while end:
        parts.append((int(cut[end]), end))
        end = int(cut[end])
    return parts[::-1]
