"""Per-task classifiers on top of the encoder (section 3.1).

n examples, m items of them (choices, words), D width of the encoder, K outputs, C label names. A head's *output space*
is where gold and teacher are mixed: probabilities, or [0, 1] for regression. The paper has the first two heads; the
others are ours.

Heads of examples that have several items take ``offsets`` ``[n + 1]`` as a last argument: example i has the items from
``offsets[i]`` to ``offsets[i + 1]``. ``None`` means that all items belong to one example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bam_lightning.config.data_config import metric_input
from bam_lightning.config.exceptions import ConfigError, TrainingError
from bam_lightning.config.instantiate import instantiate
from bam_lightning.models.batch import ABSENT
from bam_lightning.models.kernels.dropout import Dropout
from bam_lightning.store.ragged import Ragged

BEYOND = 3.0  # standard deviations of a label's Gaussian that the bins of HLGaussHead reach beyond the range


class ExportSpec(NamedTuple):
    """How a head's K logits are read where this library is not.

    ``problem_type`` is that of transformers, whose pipeline takes the sigmoid of a single output that has none;
    ``outputs`` are K names; ``how`` says the way from the scores of a pipeline to a label.
    """

    problem_type: str | None
    outputs: tuple[str, ...]
    how: str


class Head(nn.Module, ABC):
    """Dropout and one linear layer; Glorot-uniform weights and zero bias (not in the paper: reference code).

    ``uses`` says what it reads: ``"pooled"``, a vector for each text; ``"tokens"``, the state of each word's first
    token; ``"pairs"``, the states of all tokens and where each text begins, see ``SANHead``.
    """

    uses = "pooled"
    own_loss: nn.Module | None  # in place of the head's own; see ``build_head``

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.own_loss = None
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(width, outputs)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @property
    def outputs(self) -> int:
        """K: logits of an example, or of a word."""
        return self.linear.out_features

    def forward(self, pooled: Tensor, offsets: Tensor | None = None) -> Tensor:
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

    def _own_losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return what the user's own loss says of each example ``[n]``; several values of an example are averaged."""
        assert self.own_loss is not None
        found: Tensor = self.own_loss(outputs, target)
        if found.shape[:1] != outputs.shape[:1]:
            raise TrainingError(
                f"the loss {type(self.own_loss).__name__} must return a value for each of {len(outputs)} examples, got "
                f"shape {list(found.shape)}; losses of torch do so with reduction: none"
            )
        return found if found.dim() == 1 else found.flatten(1).mean(dim=1)

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return what an export says of the logits.

        Raises:
            ConfigError: for a head of one's own that does not say it.
        """
        raise ValueError(f"{type(self).__name__} has no method export_spec, so it cannot be exported; give it one")


def build_head(key: str, width: int, settings: Mapping[str, Any]) -> Head:
    """Build a head from its ``_target_`` form, with a loss of one's own if there is one.

    Such a loss is a module without parameters that takes ``(outputs, target)``, both ``[n, K]``, and returns a value
    for each example. Outputs are logits, in regression predictions in [0, 1]; targets are probabilities or values in
    [0, 1], since gold and teacher are mixed there.

    Raises:
        ConfigError: If the head or its loss cannot be built, or the head has no place for a loss.
    """
    form = {name: value for name, value in settings.items() if name != "loss"}
    head: Head = instantiate(key, {"width": width, **form}, Head)
    if not settings.get("loss"):
        return head
    losses = (ClassificationHead.loss, RegressionHead.loss, BinaryHeads.loss, TaggingHead.loss)
    if type(head).loss not in losses:
        raise ConfigError(f"{key}.loss: {type(head).__name__} computes a loss of its own; leave one of the two out")
    if settings.get("class_weights"):
        raise ConfigError(f"{key}.class_weights belong to the head's own loss; weight the classes in {key}.loss")
    loss: nn.Module = instantiate(f"{key}.loss", settings["loss"], nn.Module)
    if any(True for _ in loss.parameters()):
        raise ConfigError(f"{key}.loss: {type(loss).__name__} has parameters, which belong into a head of your own")
    for part in loss.modules():
        part._non_persistent_buffers_set.update(part._buffers)  # a saved head has no loss
    head.own_loss = loss
    return head


def decode(head: Head, logits: NDArray[np.float32] | Ragged, metric: Any = "") -> NDArray[Any]:
    """Return a head's predictions for the logits of a whole split, ``[N, K]`` or of the words of N rows, as a metric
    compares them with gold."""
    arrays = (logits.values, logits.offsets) if isinstance(logits, Ragged) else (logits,)
    device = next(head.parameters()).device
    with torch.inference_mode():
        tensors = [torch.from_numpy(array).to(device) for array in arrays]
        found: NDArray[Any] = predictions_for(head, metric, *tensors).cpu().numpy()
    return found


def predictions_for(head: Head, metric: Any, *logits: Tensor) -> Tensor:
    """Return predicted labels, or the probabilities that a metric asks for."""
    if (given := metric_input(metric)) == "labels":
        return head.decode(*logits)
    found = head.probabilities(*logits)
    return found if given == "probabilities" else found[:, 1]


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
        self.label_names = tuple(label_names)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the outputs, which are the label names' own."""
        return self.to_target_space(logits)


class ClassificationHead(LabelHead):
    """Softmax over ``label_names`` and cross-entropy.

    Args:
        class_weights: a factor on the loss of each class, or ``"balanced"``: N / (C * rows of the class), of the
            training rows, as in scikit-learn. They do not change predictions.
        label_smoothing: share of a gold label that is spread over all classes (Szegedy et al. 2016, section 7); a
            teacher's target stays as it is.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        width: int,
        label_names: Sequence[str],
        label_range: Sequence[float] = (),
        dropout: float = 0.1,
        sigmoid: bool = True,
        class_weights: Sequence[float] | str | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(width, label_names, label_range, dropout, sigmoid)
        self.label_smoothing = label_smoothing
        # "balanced" becomes numbers where rows are trained on; predictions need none
        weights = (
            None if class_weights is None or isinstance(class_weights, str) else torch.tensor(class_weights).float()
        )
        self.register_buffer("class_weights", weights, persistent=False)

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Return one-hot rows, smoothed if asked for."""
        gold = F.one_hot(labels, self.outputs).float()
        return (
            gold
            if not self.label_smoothing
            else gold.lerp(torch.full_like(gold, 1 / self.outputs), self.label_smoothing)
        )

    def to_target_space(self, logits: Tensor) -> Tensor:
        """Return probabilities."""
        return torch.softmax(logits, dim=-1)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy to a distribution; its gradient is that of KL divergence."""
        if self.own_loss is not None:
            return self._own_losses(logits, target)
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        return F.cross_entropy(logits, target, weights, reduction="none")

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
        if self.own_loss is not None:
            return self._own_losses(self.to_target_space(logits), target)
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


class HLGaussHead(Head):
    """A score in ``label_range`` as a distribution over equal bins: softmax and cross-entropy, in place of one number.

    A label becomes a Gaussian around it, integrated over each bin (HL-Gauss: Imani and White 2018; Farebrother et al.
    2024), and the prediction is the mean of the bins' centres. So a teacher passes on a distribution, whose absence is
    the paper's explanation why distillation does little for STS-B (section 5). The bins reach three standard deviations
    beyond the range, so that the mean of every label's target is the label. ``sigmoid`` is that of ``RegressionHead``.

    Args:
        bins: K.
        sigma: standard deviation of a label's Gaussian, in bins.

    Raises:
        ValueError: If so few bins leave none for the range.
    """

    def __init__(
        self,
        width: int,
        label_range: Sequence[float],
        label_names: Sequence[str] = (),
        dropout: float = 0.1,
        sigmoid: bool = True,
        bins: int = 51,
        sigma: float = 0.75,
    ) -> None:
        inside = bins - 2 * BEYOND * sigma
        if sigma <= 0 or inside < 1:
            raise ValueError(
                f"bins={bins} and sigma={sigma:g} leave no bin for the labels: {2 * BEYOND:g} x sigma bins lie beyond "
                "the range; give more bins, or a smaller sigma above 0"
            )
        super().__init__(width, bins, dropout)
        low, high = label_range
        size = (high - low) / inside
        self.deviation = sigma * size
        self.ends = (low - BEYOND * self.deviation, high + BEYOND * self.deviation)

    def edges(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the edges of the bins ``[K + 1]``, in label units."""
        return torch.linspace(*self.ends, self.outputs + 1, device=device)

    def centres(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the middle of each bin ``[K]``, in label units."""
        edges = self.edges(device)
        return (edges[1:] + edges[:-1]) / 2

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Return the probability of each bin under a Gaussian around each label."""
        below = torch.special.ndtr(
            (self.edges(labels.device) - labels.float().unsqueeze(-1)) / self.deviation
        )  # [n, K + 1]
        mass = below.diff(dim=-1)
        return mass / mass.sum(dim=-1, keepdim=True)

    def to_target_space(self, logits: Tensor) -> Tensor:
        """Return probabilities."""
        return torch.softmax(logits, dim=-1)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy to a distribution over bins."""
        return F.cross_entropy(logits, target, reduction="none")

    def decode(self, logits: Tensor) -> Tensor:
        """Return the mean of the bins' centres, in label units."""
        return self.to_target_space(logits) @ self.centres(logits.device).to(logits.dtype)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return nothing: a score has no classes."""
        return logits[:, :0]

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return an output for each bin, named by its centre."""
        names = tuple(f"{centre:.6g}" for centre in self.centres().tolist())
        return ExportSpec("single_label_classification", names, "the sum of each score times the number it is named by")


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
        if self.own_loss is not None:
            return self._own_losses(logits, target)
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


def _row_of(offsets: Tensor | None, items: Tensor) -> tuple[Tensor, int]:
    """Return the example of each item ``[m]``, and n."""
    if offsets is None:
        return torch.zeros(len(items), dtype=torch.long, device=items.device), 1
    n = len(offsets) - 1
    examples = torch.arange(n, device=items.device)
    return torch.repeat_interleave(examples, offsets.diff(), output_size=len(items)), n


class ChoiceHead(ClassificationHead):
    """One score for each choice (a text), and a softmax over the choices of an example: multiple choice.

    Logits are ``[n, C]``, as those of a classification whose classes are first choice, second choice and so on;
    ``label_names`` names them. An example with fewer than C choices has ``ABSENT`` for the others.
    """

    def __init__(
        self,
        width: int,
        label_names: Sequence[str],
        label_range: Sequence[float] = (),
        dropout: float = 0.1,
        sigmoid: bool = True,
    ) -> None:
        Head.__init__(self, width, 1, dropout)
        self.n_choices, self.label_names = len(label_names), tuple(label_names)
        self.class_weights, self.label_smoothing = None, 0.0

    @property
    def outputs(self) -> int:
        """C: the most choices that an example has."""
        return self.n_choices

    def forward(self, pooled: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return logits ``[n, C]`` of the vectors ``[m, D]`` of all choices."""
        scores = super().forward(pooled).squeeze(-1)  # [m]
        example, n = _row_of(offsets, scores)
        starts = torch.zeros_like(example) if offsets is None else offsets[:-1][example]
        places = example * self.n_choices + torch.arange(len(scores), device=scores.device) - starts
        logits = scores.new_full((n * self.n_choices,), ABSENT)
        return logits.index_put((places,), scores).view(n, self.n_choices)

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return one score, that of a choice."""
        return ExportSpec(None, ("score",), "the choice with the highest score; each is a text of its own")


class TaggingHead(ClassificationHead):
    """Softmax over ``label_names`` for each word, read at its first token: tags in any scheme (B-, I-, O; or none).

    An example's loss is the mean over its words, not the sum: it is then as large as that of a classification with as
    many classes, and a task of long texts does not drown the others in the sum over tasks (section 3.1).
    """

    uses = "tokens"

    def encode_labels(self, labels: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return one-hot rows ``[m, C]``; zeros for a word without a tag, whose label is -1."""
        return super().encode_labels(labels.clamp(min=0)) * (labels >= 0).unsqueeze(-1)

    def to_target_space(self, logits: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return probabilities ``[m, C]``, or ``[m, k, C]`` of an ensemble; 0 for a word that was cut.

        The mean over an ensemble is then that of the members that saw the word.
        """
        seen = (logits > ABSENT).any(dim=-1, keepdim=True)
        share = seen if logits.dim() == 2 else seen * logits.shape[1] / seen.sum(dim=1, keepdim=True).clamp(min=1)
        return super().to_target_space(logits) * share

    def loss(self, logits: Tensor, target: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy ``[n]`` of each example's words that have a target, which is not all 0."""
        words = super().loss(logits, target)  # [m]
        example, n = _row_of(offsets, words)
        counted = (target.sum(dim=-1) > 0).to(words.dtype)
        sums, counts = (words.new_zeros(n).index_add(0, example, part) for part in (words * counted, counted))
        return sums / counts.clamp(min=1)

    def decode(self, logits: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return the likeliest tag of each word ``[m]``; -1 for a word that was cut."""
        return torch.where((logits > ABSENT).any(dim=-1), logits.argmax(dim=-1), -1)

    def probabilities(self, logits: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return the probability of each tag ``[m, C]``."""
        return super().probabilities(logits)

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return an output for each tag."""
        return ExportSpec(None, tuple(label_names), "the tag with the highest score at a word's first token")


class SANHead(ClassificationHead):
    """Stochastic answer network over both texts of a pair (Liu et al. 2018), the head of MT-DNN's pair tasks.

    A GRU reads the first text ``steps`` times, beginning from a summary of the second, and answers each time. The
    answers' probabilities are averaged; in training each is left out with ``answer_dropout``, but never all of an
    example. Logits are the logarithms of the mean, so losses, teachers and predictions are those of a classification.
    Special tokens count to the text before them. Of a row without a second text, both are the whole text.
    """

    uses = "pairs"

    def __init__(
        self, width: int, label_names: Sequence[str], steps: int = 5, answer_dropout: float = 0.1, **options: Any
    ) -> None:
        super().__init__(4 * width, label_names, **options)
        self.steps, self.answer_dropout = steps, answer_dropout
        self.summary = nn.Linear(width, 1)
        self.attention = nn.Linear(width, width, bias=False)
        self.memory = nn.GRUCell(width, width)

    def forward(self, states: Tensor, begins: Tensor, seconds: Tensor, ends: Tensor) -> Tensor:  # type: ignore[override]
        """Return logits ``[n, C]``.

        Args:
            states: ``[N, D]`` of all tokens of a minibatch.
            begins: ``[n]`` first token of each pair.
            seconds: ``[n]`` first token of its second text.
            ends: ``[n]`` token behind its last.
        """
        with torch.autocast(states.device.type, enabled=False):
            states = states.to(self.linear.weight.dtype)
            single = seconds == begins
            first, absent = _padded(states, begins, torch.where(single, ends, seconds))  # [n, T, D], [n, T]
            second, absent_second = _padded(states, seconds, ends)
            weights = self.summary(second).squeeze(-1).masked_fill(absent_second, -torch.inf).softmax(dim=-1)
            state = torch.einsum("nt,ntd->nd", weights, second)  # s_0
            answers = []
            for step in range(self.steps):
                scores = torch.einsum("nd,ntd->nt", self.attention(state), first).masked_fill(absent, -torch.inf)
                read = torch.einsum("nt,ntd->nd", scores.softmax(dim=-1), first)  # x_k
                features = torch.cat([state, read, (state - read).abs(), state * read], dim=-1)  # [n, 4 D]
                answers.append(self.linear(self.dropout(features)).log_softmax(dim=-1))
                if step + 1 < self.steps:
                    state = self.memory(read, state)
            kept = self._kept_answers(len(begins), states.device)  # [n, steps]
            logits = torch.stack(answers, dim=1).masked_fill(~kept.unsqueeze(-1), -torch.inf)  # [n, steps, C]
            return logits.logsumexp(dim=1) - kept.sum(dim=1, keepdim=True).log()

    def _kept_answers(self, count: int, device: torch.device) -> Tensor:
        """Return which answers are averaged: all of them in evaluation."""
        if not self.training or not self.answer_dropout:
            return torch.ones(count, self.steps, dtype=torch.bool, device=device)
        draws = torch.rand(count, self.steps, device=device)
        return (draws >= self.answer_dropout) | (draws == draws.max(dim=1, keepdim=True).values)


def _padded(states: Tensor, begins: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens from ``begins`` to ``ends`` ``[n]`` as ``[n, T, D]``, and which of these are beyond the end."""
    lengths = ends - begins
    places = torch.arange(max(lengths.tolist(), default=1), device=states.device)
    absent = places >= lengths.unsqueeze(-1)
    return states[(begins.unsqueeze(-1) + places).clamp(max=len(states) - 1)], absent


class SpanHead(Head):
    """The answer to a question as a span of words: a softmax over words for its first, another for its last.

    K = 2 logits for each word. The loss is the mean of both cross-entropies, as in BERT's head for SQuAD.

    Args:
        longest: most words of an answer that is predicted.
    """

    uses = "tokens"

    def __init__(
        self,
        width: int,
        label_names: Sequence[str] = (),
        label_range: Sequence[float] = (),
        dropout: float = 0.1,
        sigmoid: bool = True,
        longest: int = 30,
    ) -> None:
        super().__init__(width, 2, dropout)
        self.longest = longest

    def encode_labels(self, labels: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return one-hot columns ``[m, 2]`` of the first and last words ``[n, 2]``, counted within their example."""
        assert offsets is not None  # else the number of words is unknown
        target = torch.zeros(int(offsets[-1]), 2, device=labels.device)
        columns = torch.arange(2, device=labels.device).expand(len(labels), 2)
        return target.index_put((labels + offsets[:-1].unsqueeze(-1), columns), target.new_ones(()))

    def to_target_space(self, logits: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return probabilities ``[m, 2]``, or ``[m, k, 2]`` of an ensemble, of being the first and the last word.

        The mean over an ensemble is that of the members that saw the example: those with a word that is not ``ABSENT``.
        """
        probabilities = self._log_softmax(logits, offsets).exp()
        if logits.dim() == 2:
            return probabilities
        example, n = _row_of(offsets, logits)
        words = (logits > ABSENT).any(dim=-1, keepdim=True).to(logits.dtype)  # [m, k, 1]
        seen = words.new_zeros(n, *words.shape[1:]).index_add(0, example, words) > 0  # [n, k, 1]
        share = seen * logits.shape[1] / seen.sum(dim=1, keepdim=True).clamp(min=1)
        return probabilities * share[example]

    def _log_softmax(self, logits: Tensor, offsets: Tensor | None) -> Tensor:
        example, n = _row_of(offsets, logits)
        index = example.view(-1, *[1] * (logits.dim() - 1)).expand_as(logits)
        top = logits.new_full((n, *logits.shape[1:]), ABSENT).scatter_reduce(0, index, logits.detach(), "amax")
        shifted = logits - top[example]
        total = logits.new_zeros(n, *logits.shape[1:]).index_add(0, example, shifted.exp())
        return shifted - total.log()[example]

    def loss(self, logits: Tensor, target: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return the mean ``[n]`` of the cross-entropies of first and last word."""
        words = -(target * self._log_softmax(logits, offsets)).mean(dim=-1)  # [m]
        example, n = _row_of(offsets, words)
        return words.new_zeros(n).index_add(0, example, words)

    def decode(self, logits: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return the likeliest first and last word ``[n, 2]``, at most ``longest`` words; -1 without any word."""
        scores = self._log_softmax(logits.float(), offsets).cpu()
        bounds = [0, len(scores)] if offsets is None else offsets.tolist()
        return torch.tensor(
            [self._best(scores[start:end]) for start, end in pairwise(bounds)], device=logits.device
        ).view(-1, 2)

    def _best(self, scores: Tensor) -> tuple[int, int]:
        if not len(scores):
            return -1, -1
        last = F.pad(scores[:, 1], (0, self.longest - 1), value=-torch.inf).unfold(0, self.longest, 1)  # [w, longest]
        first, more = divmod(int((scores[:, :1] + last).argmax()), self.longest)
        return first, first + more

    def probabilities(self, logits: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return nothing: a span has no classes."""
        return logits[:, :0]

    def export_spec(self, label_names: Sequence[str]) -> ExportSpec:
        """Return the scores of being an answer's first and last word."""
        how = f"the words, at most {self.longest}, whose start and end score highest together, at words' first tokens"
        return ExportSpec(None, ("start", "end"), how)
