"""Per-task classifiers on top of the encoder (section 3.1).

n examples, D width of the encoder, K outputs, C label names. A head's *output space* is where gold and teacher are
mixed: probabilities, or [0, 1] for regression. The paper has the first two heads; the others are ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bam_lightning.models.kernels.dropout import Dropout


class ExportSpec(NamedTuple):
    """How a head's K logits are read where this library is not.

    ``problem_type`` is that of transformers, whose pipeline takes the sigmoid of a single output that has none;
    ``outputs`` are K names; ``how`` says the way from the scores of a pipeline to a label.
    """

    problem_type: str | None
    outputs: tuple[str, ...]
    how: str


class Head(nn.Module, ABC):
    """Dropout and one linear layer; Glorot-uniform weights and zero bias (not in the paper: reference code)."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(width, outputs)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits ``[n, K]`` of the encoder's vectors ``[n, D]``, in the precision of the weights."""
        with torch.autocast(pooled.device.type, enabled=False):  # logits are kept and mixed: full precision
            logits: Tensor = self.linear(self.dropout(pooled.to(self.linear.weight.dtype)))
        return logits

    @abstractmethod
    def encode_labels(self, labels: Tensor) -> Tensor:
        """Return gold in the output space ``[n, K]`` of labels ``[n]``; of a multi-label task ``[n, C]``."""

    @abstractmethod
    def to_target_space(self, logits: Tensor) -> Tensor:
        """Return logits ``[n, K]`` brought into the output space."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each example ``[n]`` against a target ``[n, K]`` of the output space."""

    @abstractmethod
    def decode(self, logits: Tensor) -> Tensor:
        """Return predictions in the labels' shape and units: class ids, scores, or 0 and 1 for each label."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each label name ``[n, C]``; ``[n, 0]`` where labels are numbers."""

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return what an export says of the logits.

        Raises:
            ConfigError: for a head of one's own that does not say it.
        """
        raise ValueError(f"{type(self).__name__} has no method export_spec, so it cannot be exported; give it one")


class LabelHead(Head, ABC):
    """A head whose labels have names: an output for each of ``label_names``, but for ``n_implicit`` of them.

    The other options are those of heads of other kinds, so that a task's file may name any head.
    """

    n_implicit = 0

    def __init__(
        self,
        width: int,
        label_names: Sequence[str],
        label_range: Sequence[float] = (),
        dropout: float = 0.1,
        sigmoid: bool = True,
    ) -> None:
        super().__init__(width, len(label_names) - self.n_implicit, dropout)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the outputs, which are the label names' own."""
        return self.to_target_space(logits)


class ClassificationHead(LabelHead):
    """Softmax over ``label_names`` and cross-entropy."""

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Return one-hot rows."""
        return F.one_hot(labels, self.linear.out_features).float()

    def to_target_space(self, logits: Tensor) -> Tensor:
        """Return probabilities."""
        return torch.softmax(logits, dim=-1)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy to a distribution; its gradient is that of KL divergence."""
        return F.cross_entropy(logits, target, reduction="none")

    def decode(self, logits: Tensor) -> Tensor:
        """Return the likeliest class ids."""
        return logits.argmax(dim=-1)

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return an output for each label name."""
        return ExportSpec("single_label_classification", tuple(label_names), "the label with the highest score")


class RegressionHead(Head):
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

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Return scores scaled to [0, 1]."""
        return ((labels.float() - self.low) / (self.high - self.low)).unsqueeze(-1)

    def to_target_space(self, logits: Tensor) -> Tensor:
        """Return scores in [0, 1] (unbounded without the sigmoid)."""
        return torch.sigmoid(logits) if self.sigmoid else logits

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the squared distance between prediction and target, in [0, 1]."""
        return (self.to_target_space(logits) - target).square().squeeze(-1)

    def decode(self, logits: Tensor) -> Tensor:
        """Return scores in label units; not clipped, since that would tie the ranks of a linear output."""
        return (self.to_target_space(logits) * (self.high - self.low) + self.low).squeeze(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return nothing: a score has no classes."""
        return logits[:, :0]

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return one output, and the way back to label units."""
        how = f"{self.low:.15g} + {self.high - self.low:.15g} * score"
        return ExportSpec(None if self.sigmoid else "regression", ("score",), how)


class BinaryHeads(LabelHead, ABC):
    """K yes-or-no questions, each a sigmoid of its own.

    Their losses are averaged, not summed: the loss of an untrained head is then ln 2 for any K, as large as that of
    one binary task, and a task of many labels does not drown the others in the sum over tasks (section 3.1).
    """

    def to_target_space(self, logits: Tensor) -> Tensor:
        """Return the probability of each yes."""
        return torch.sigmoid(logits)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean of K binary cross-entropies; its gradient is that of their KL divergences."""
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=-1)


class MultiLabelHead(BinaryHeads):
    """Any number of ``label_names``, each decided by itself: K = C, and their probabilities do not sum to 1."""

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Return 0 and 1 as they are, as float32."""
        return labels.float()

    def decode(self, logits: Tensor) -> Tensor:
        """Return 1 for each label more likely than not, else 0: int64 ``[n, C]``; a row may have none."""
        return (self.to_target_space(logits) > 0.5).long()

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return an output for each label name."""
        return ExportSpec("multi_label_classification", tuple(label_names), "every label whose score is above 0.5")


class OrdinalHead(BinaryHeads):
    """``label_names`` from lowest to highest: output k is P(class > k), so K = C - 1.

    After Frank and Hall (2001), as one network with K outputs (Niu et al. 2016). Each output has weights of its own:
    nothing makes them fall with k, for which CORAL (Cao et al. 2020) would share the weights.
    """

    n_implicit = 1  # there is nothing above the highest

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Return 1 for each threshold below the class: of four classes, class 2 is 1 1 0."""
        thresholds = torch.arange(self.linear.out_features, device=labels.device)
        return (labels.unsqueeze(-1) > thresholds).float()

    def decode(self, logits: Tensor) -> Tensor:
        """Return how many thresholds are more likely passed than not: the class id."""
        return (self.to_target_space(logits) > 0.5).sum(dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each class ``[n, C]``, of which ``decode`` is the median.

        Outputs that rise with k would give a class less than nothing, so they are sorted first, which brings them
        nearer to any falling truth (Chernozhukov et al. 2009) and leaves the count above 1/2 as it is.
        """
        above = self.to_target_space(logits).sort(dim=-1, descending=True).values  # [n, K]
        ends = above.new_ones(len(above), 1), above.new_zeros(len(above), 1)
        return -torch.cat([ends[0], above, ends[1]], dim=-1).diff(dim=-1)

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return an output for each threshold."""
        names = tuple(f"above {name}" for name in label_names[:-1])
        how = f"the label whose place in {', '.join(label_names)} is the number of scores above 0.5, counted from 0"
        return ExportSpec("multi_label_classification", names, how)
