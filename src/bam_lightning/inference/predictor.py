"""Use a trained model: all its tasks by name, on one's own texts, from one pass of the encoder.

N rows of texts, K outputs of a head, C label names of a task, D width of the encoder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bam_lightning.config.data_config import HEADS
from bam_lightning.config.exceptions import ConfigError, DataError, OutputExistsError, StoreError
from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.config.validation import check_choice
from bam_lightning.data.collate import Examples, collate, length_batches
from bam_lightning.data.tokenization import join, tokenise
from bam_lightning.inference import model_card
from bam_lightning.inference.model_info import ModelInfo, TaskInfo, check_rows, find_model, read_model_info
from bam_lightning.models.batch import Batch
from bam_lightning.models.encoder import Encoder, check_length
from bam_lightning.models.heads import Head
from bam_lightning.models.saving import load_encoder
from bam_lightning.store.run_dir import MANIFEST
from bam_lightning.training import hardware

Row = str | Sequence[str]


class Prediction(NamedTuple):
    """What a model says of one row.

    ``label`` is a label name, a number in the task's ``label_range``, or, where several labels may hold, a tuple of
    their names. ``probabilities`` has every label name; it is empty for numbers.
    """

    label: str | float | tuple[str, ...]
    probabilities: dict[str, float]


class Predictor:
    """An encoder with the heads of all its tasks; made by ``load``.

    Attributes:
        saved: what the model says of itself; ``saved.manifest`` is all that is known of its training.
        device: where it computes.
        precision: ``bf16-mixed`` or ``32-true``.
    """

    def __init__(
        self, saved: ModelInfo, encoder: Encoder, heads: Mapping[str, Head], tokenizer: Any, device: str, precision: str
    ) -> None:
        self.saved, self.tokenizer = saved, tokenizer
        self.device, self.precision = torch.device(device), precision
        self.encoder = encoder.eval().to(self.device)
        self.heads = nn.ModuleDict(dict(heads)).eval().to(self.device)

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        """Name -> what the task reads and answers."""
        return self.saved.tasks

    def head(self, task: str) -> Head:
        """Return the head of a task."""
        return cast(Head, self.heads[task])

    def predict(self, texts: Sequence[Row], task: str | Sequence[str] = "all") -> Any:
        """Return what the model says of each row, in the order of the rows.

        Args:
            texts: N strings, or N pairs of strings for tasks that read two.
            task: a task's name; a list of names; or ``all``, every task that reads as many texts as the first row.

        Returns:
            N predictions; task -> N predictions for a list or ``all``.

        Raises:
            BamError: for an unknown task, or naming the first row that cannot be scored.
        """
        rows = _rows(texts)
        chosen = self.saved.named(task, len(rows[0]) if rows else None)
        check_rows(chosen, rows)
        logits = self.logits(rows, [one.name for one in chosen])
        said = {one.name: self.say(one.name, logits[one.name]) for one in chosen}
        return said[task] if isinstance(task, str) and task != "all" else said

    def logits(self, rows: Sequence[Sequence[str]], tasks: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return task -> float32 logits ``[N, K]``; rows of like length are computed together.

        Every head sees every row, whatever its task was trained to read; rows may have one text or two.
        """
        if not rows:
            return {task: np.empty((0, self.head(task).linear.out_features), np.float32) for task in tasks}
        widths = np.array([len(row) for row in rows])
        order = np.argsort(widths, kind="stable")  # the tokenizer takes rows of as many texts at a time
        cut = np.flatnonzero(np.diff(widths[order])) + 1
        groups = [tuple(zip(*(rows[place] for place in group), strict=True)) for group in np.split(order, cut)]
        tokens = join([tokenise(columns, self.tokenizer, self.saved.max_length) for columns in groups])
        examples = {"": Examples(tokens, np.zeros(len(rows)))}
        parts: dict[str, list[NDArray[np.float32]]] = {task: [] for task in tasks}
        blocks = length_batches(tokens.lengths)
        for block in blocks:
            batch = collate(examples, [""] * len(block), block)
            for task, found in self._forward(batch, tasks).items():
                parts[task].append(found)
        back = np.argsort(order[np.concatenate(blocks)], kind="stable")
        return {task: np.concatenate(found)[back] for task, found in parts.items()}

    def _forward(self, batch: Batch, tasks: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        half = self.precision == "bf16-mixed"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            pooled = self.encoder(batch.to(self.device))
            return {task: self.head(task)(pooled).float().cpu().numpy() for task in tasks}

    def say(self, task: str, logits: NDArray[np.float32]) -> list[Prediction]:
        """Return logits ``[N, K]`` of a task as labels and probabilities by name."""
        head, names = self.head(task), self.tasks[task].label_names
        tensor = torch.from_numpy(logits)
        with torch.inference_mode():
            predicted = head.decode(tensor.to(self.device)).cpu().tolist()
            probabilities = head.probabilities(tensor.to(self.device)).cpu().tolist()
        return [
            Prediction(_label(value, names), dict(zip(names, shares, strict=True)))
            for value, shares in zip(predicted, probabilities, strict=True)
        ]

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that ``load`` reads anywhere: weights, tokenizer, tasks, provenance, and a model card.

        A model that was saved there before is replaced.

        Raises:
            OutputExistsError: if there is something else in the folder.
            OSError: if it cannot be written.
        """
        target, source = Path(folder).expanduser(), self.saved.run
        if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file()):
            raise OutputExistsError(f"{target} is or holds something else; give a new folder")
        for name in source.files():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.file(name), target / name)
        shutil.copyfile(source.path / MANIFEST, target / MANIFEST)
        (target / model_card.NAME).write_text(model_card.make_card(self.saved), encoding="utf-8")
        return target

    def push_to_hub(self, repo: str, private: bool = True, token: str | None = None) -> str:
        """Upload what ``save_pretrained`` writes to a model repository of the hub; return its address."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            return str(api.upload_folder(repo_id=repo, folder_path=self.save_pretrained(folder)))


def _rows(texts: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the rows as tuples of texts; what is no text inside them is for the task to refuse."""
    if isinstance(texts, str):
        raise DataError("texts must be a list of rows, got one text; put it into a list")
    rows = list(texts)  # it may be one that can be gone through only once
    for number, row in enumerate(rows):
        if not isinstance(row, (str, tuple, list)):
            raise DataError(f"row {number} must be a text, or a list of the texts of a row, got {type(row).__name__}")
    return [(row,) if isinstance(row, str) else tuple(row) for row in rows]


def _label(value: Any, names: Sequence[str]) -> str | float | tuple[str, ...]:
    if not names:
        return float(value)
    if isinstance(value, list):
        return tuple(name for name, holds in zip(names, value, strict=True) if holds)
    return names[int(value)]


def load(
    name: str | Path,
    store: str | Path = "store",
    device: str = "auto",
    precision: str = "auto",
    heads: Sequence[str] = (),
    revision: str | None = None,
) -> Predictor:
    """Return a trained model, ready to predict.

    Args:
        name: a Run of ``store``, a folder, or a hub id.
        store: ``paths.store`` of the job that trained it.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (what it was trained with), ``bf16-mixed`` or ``32-true``,
            which is also how a model trained in float64 computes.
        heads: dotted names of head classes of one's own, which are imported and run; no other foreign code is.
        revision: of a hub id.

    Raises:
        StoreError: if there is no such model.
        ValueError: if it is damaged, or needs a head that is not allowed.
    """
    saved = read_model_info(find_model(str(name), str(store), revision))
    hardware.prepare()
    spec = saved.manifest["spec"]
    encoder, tokenizer, weights = load_encoder(saved.run, str(spec["pooling"]))
    check_length(encoder, saved.max_length, str(saved.run.path))
    built = {task: _head(saved, task, encoder.width, weights.get(task, {}), heads) for task in saved.tasks}
    place = _device(device)
    check_choice("precision", precision, ("auto", "bf16-mixed", "32-true"))
    trained = "32-true" if spec["precision"] == "64-true" else spec["precision"]
    settings = TrainerConfig(
        accelerator="cpu" if place == "cpu" else "gpu", precision=trained if precision == "auto" else precision
    )
    return Predictor(saved, encoder, built, tokenizer, place, hardware.precision(settings))


def _device(name: str) -> str:
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if name == "auto":
        return there[-1] if len(there) == 1 else there[1]
    name = "cuda:0" if name == "cuda" else name
    check_choice("device", name, there)
    return name


def _head(saved: ModelInfo, name: str, width: int, weights: Mapping[str, torch.Tensor], allowed: Sequence[str]) -> Head:
    settings = saved.tasks[name].head
    target = str(settings.get("_target_"))
    if target not in allowed and target not in HEADS:
        raise ConfigError(
            f"task {name!r} of {saved.run.path} needs the head {target!r}, which is not part of bam_lightning; "
            f"if you trust that code, allow it with heads=[{target}]"
        )
    ours = target in HEADS
    with torch.device("meta" if ours else "cpu"):  # sizes that the weights do not have must not fill the memory
        head: Head = instantiate(f"{MANIFEST}: head of {name!r}", {"width": width, **settings})
    try:
        head.load_state_dict(
            {key: value.to(torch.float32, copy=True) for key, value in weights.items()} if ours else weights,
            assign=ours,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"{saved.run.path}: weights of head {name!r} do not fit: {reason}; {saved.run.remedy}"
        ) from error
    return head
