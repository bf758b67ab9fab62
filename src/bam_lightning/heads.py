"""Per-task classifiers on top of the encoder (section 3.1).

n examples, D width of the encoder, K outputs. A head's *output space* is where gold and teacher are mixed:
probabilities for classification, [0, 1] for regression."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bam_lightning.dropout import Dropout


class Head(nn.Module, ABC):
    """Dropout and one linear layer; Glorot-uniform weights and zero bias (not in the paper: reference code)."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(width, outputs)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return float32 logits ``[n, K]`` of the encoder's vectors ``[n, D]``."""
        with torch.autocast(pooled.device.type, enabled=False):  # logits are kept and mixed: full precision
            logits: Tensor = self.linear(self.dropout(pooled.float()))
        return logits

    @abstractmethod
    def encode(self, labels: Tensor) -> Tensor:
        """Return gold in the output space ``[n, K]`` of labels ``[n]``."""

    @abstractmethod
    def outputs(self, logits: Tensor) -> Tensor:
        """Return logits ``[n, K]`` brought into the output space."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each example ``[n]`` against a target ``[n, K]`` of the output space."""

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """Return predictions ``[n]`` in label units: class ids, or scores."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each label name ``[n, C]``; ``[n, 0]`` where labels are numbers."""


class Classification(Head):
    """Softmax over ``label_names`` and cross-entropy."""

    def __init__(
        self,
        width: int,
        label_names: Sequence[str],
        label_range: Sequence[float] = (),
        dropout: float = 0.1,
        sigmoid: bool = True,
    ) -> None:
        super().__init__(width, len(label_names), dropout)

    def encode(self, labels: Tensor) -> Tensor:
        """Return one-hot rows."""
        return F.one_hot(labels, self.linear.out_features).float()

    def outputs(self, logits: Tensor) -> Tensor:
        """Return probabilities."""
        return torch.softmax(logits, dim=-1)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy to a distribution; its gradient is that of KL divergence."""
        return F.cross_entropy(logits, target, reduction="none")

    def predict(self, logits: Tensor) -> Tensor:
        """Return the likeliest class ids."""
        return logits.argmax(dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return probabilities."""
        return self.outputs(logits)


class Regression(Head):
    """One output for scores in ``label_range``, trained in [0, 1] with squared error (section 3.1).

    ``sigmoid=False`` leaves the output linear, as the reference code does.
    """

    def __init__(
        self,
        width: int,
        label_range: Sequence[float],
        label_names: Sequence[str] = (),
        dropout: float = 0.1,
        sigmoid: bool = True,
    ) -> None:
        super().__init__(width, 1, dropout)
        self.low, self.high = label_range
        self.sigmoid = sigmoid

    def encode(self, labels: Tensor) -> Tensor:
        """Return scores scaled to [0, 1]."""
        return ((labels.float() - self.low) / (self.high - self.low)).unsqueeze(-1)

    def outputs(self, logits: Tensor) -> Tensor:
        """Return scores in [0, 1] (unbounded without the sigmoid)."""
        return torch.sigmoid(logits) if self.sigmoid else logits

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the squared distance between prediction and target, in [0, 1]."""
        return (self.outputs(logits) - target).square().squeeze(-1)

    def predict(self, logits: Tensor) -> Tensor:
        """Return scores in label units; not clipped, since that would tie the ranks of a linear output."""
        return (self.outputs(logits) * (self.high - self.low) + self.low).squeeze(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return nothing: a score has no classes."""
        return logits[:, :0]
