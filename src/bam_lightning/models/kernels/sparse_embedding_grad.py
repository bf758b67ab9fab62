"""The gradient of the word embeddings as the rows of the words that a step has read: of 30,000 rows a few hundred.

Whole, it is half of MiniLM's gradient, nearly all of it zeros that are written, squared and scaled in every step. Only
the optimizer needs it whole, for its moments go on where a gradient is zero. V words, D width."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bam_lightning.models.encoder import Encoder


class SparseEmbeddingGrad:
    """Has autograd give the word embeddings of an encoder a gradient of rows, until it is closed."""

    def __init__(self, encoder: Encoder) -> None:
        words: nn.Embedding = encoder.body.get_input_embeddings()
        self.words = words
        # what torch cannot do with rows stays as it is
        words.sparse = type(words) is nn.Embedding and words.max_norm is None and not words.scale_grad_by_freq
        self._whole: Tensor | None = None  # [V, D] zeros, but while the optimizer reads it

    def close(self) -> None:
        """Have autograd give a whole gradient again."""
        self.words.sparse = False

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within it the gradient is an ordinary one, ``[V, D]``; after it there is none."""
        weight = self.words.weight
        if weight.grad is None or not weight.grad.is_sparse:
            yield
            return
        found = weight.grad.coalesce()
        rows = found.indices()[0]
        if self._whole is None:
            self._whole = torch.zeros_like(weight, requires_grad=False)
        weight.grad = self._whole.index_copy_(0, rows, found.values())
        try:
            yield
        finally:
            self._whole.index_fill_(0, rows, 0.0)
            weight.grad = None
