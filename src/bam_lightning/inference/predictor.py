"""Load a trained model; predict, evaluate, embed and export with all of its tasks.

N rows of texts, K outputs of a head, C label names of a task, D width of the encoder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bam_lightning.config.data_config import HEADS, head_arguments
from bam_lightning.config.exceptions import ConfigError, DataError, OutputExistsError, StoreError
from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.text_fields import is_template
from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.config.validation import check_choice
from bam_lightning.data.collate import PREDICT_TOKENS, Examples, collate, length_batches
from bam_lightning.data.items import ITEM_KINDS, in_row_order, tokenize_rows
from bam_lightning.data.task import Layout
from bam_lightning.data.tokenization import join
from bam_lightning.data.word_labels import words_of
from bam_lightning.inference import model_card
from bam_lightning.inference.calibration import (
    ABSTAIN,
    Decoded,
    Target,
    TaskCalibration,
    apply_thresholds,
    fit_calibration,
    write_calibration,
)
from bam_lightning.inference.model_info import ModelInfo, TaskInfo, check_rows, find_model, read_model_info
from bam_lightning.models import hardware
from bam_lightning.models.encoder import Encoder, check_length
from bam_lightning.models.heads import Head
from bam_lightning.models.multi_task import MultiTaskModel, pool_windows
from bam_lightning.models.saving import load_encoder
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.ragged import Ragged
from bam_lightning.store.run_dir import CALIBRATION, MANIFEST, WEIGHTS, RunFolder

if TYPE_CHECKING:
    from bam_lightning.inference.evaluate import LabelledRows

Row = str | Sequence[str]
CPU_TOKENS = 2_048  # padded tokens of a batch for each thread
EXPORT_FORMATS = ("bam", "hf", "onnx")


class Prediction(NamedTuple):
    """The prediction for one row.

    Attributes:
        label: A label name; for regression a score in the task's ``label_range``; for a multi-label task a tuple of
            label names; for a tagging task the tag of each word, ``None`` for words beyond the model's length; for an
            answer its text. ``abstain`` if the probability of the label is below its calibrated threshold.
        probabilities: Label name -> probability; empty for regression, tags and answers.
        details: Of tags the ``scores``, the probability of each; of an answer its ``score``, and the characters
            ``start`` and ``end`` of the context between which it stands. ``None`` for other tasks.
    """

    label: str | float | tuple[str | None, ...]
    probabilities: dict[str, float]
    details: dict[str, Any] | None = None


class Predictor:
    """A text encoder and the heads of all its tasks. Created by ``load``.

    Attributes:
        info: The model's description; ``info.manifest`` records how it was trained.
        calibration: Task name -> its calibration; set by ``calibrate``, kept by ``save_pretrained``.
        device: The device it computes on.
        precision: ``bf16-mixed``, or another one, in which it computes in float32.
    """

    def __init__(
        self, info: ModelInfo, encoder: Encoder, heads: Mapping[str, Head], tokenizer: Any, device: str, precision: str
    ) -> None:
        self.info, self.tokenizer = info, tokenizer
        self.calibration = dict(info.calibration)
        self.device, self.precision = torch.device(device), precision
        self.encoder = encoder.eval().to(self.device)
        self.heads = nn.ModuleDict(dict(heads)).eval().to(self.device)
        self.model = MultiTaskModel(self.encoder, heads)

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        """Task name -> its columns, labels, metric and dev scores."""
        return self.info.tasks

    def head(self, task: str) -> Head:
        """Return the head of a task."""
        return cast(Head, self.heads[task])

    def predict(self, texts: Sequence[Row], task: str | Sequence[str] = "all") -> Any:
        """Predict each row, in the order of the rows.

        Args:
            texts: N strings, or N pairs of strings for tasks that read two texts. The words of a text to tag are
                separated by white space. A row of a choice task holds its texts and its choices, or a list of these.
            task: A task name, a list of names, or ``all``: every task that reads rows like the first.

        Returns:
            N ``Prediction``s; for a list or ``all``, a dictionary from task name to N ``Prediction``s.

        Raises:
            BamError: If a task is unknown, or a row cannot be scored; the message names the first such row.
        """
        rows = _as_rows(texts)
        selected = self.info.select_tasks(task, rows[0] if rows else None)
        check_rows(selected, rows)
        logits = self.row_logits(rows, [info.name for info in selected])
        predictions = {info.name: self.postprocess(info.name, logits[info.name], rows) for info in selected}
        return predictions[task] if isinstance(task, str) and task != "all" else predictions

    def evaluate(self, texts: Sequence[Row], labels: Sequence[Any], task: str) -> dict[str, float]:
        """Return a task's metrics on labelled rows, each in [-1, 1], the headline metric first.

        Args:
            texts: N rows, as for ``predict``.
            labels: N label names, class ids, scores, or lists of label names for a multi-label task.
            task: A task name.

        Raises:
            BamError: If a row cannot be scored, or a label does not belong to the task.
        """
        from bam_lightning.inference.evaluate import score_logits

        labelled = self._labelled(texts, labels, task)
        return score_logits(self, labelled, self.logits(labelled.rows, [task])[task])

    def _labelled(self, texts: Sequence[Row], labels: Sequence[Any], task: str) -> LabelledRows:
        from bam_lightning.inference.evaluate import LabelledRows, encode_labels

        info, rows = self.info.task(task), _as_rows(texts)
        check_rows([info], rows)
        if len(rows) != len(labels):
            raise DataError(f"expected one label per row, got {len(labels)} labels for {len(rows)} rows")
        rows = [info.render(row) for row in rows]
        return LabelledRows(info, rows, encode_labels(info, rows, list(labels)), "given rows", {})

    def calibrate(
        self,
        texts: Sequence[Row],
        labels: Sequence[Any],
        task: str,
        precision: float | None = None,
        recall: float | None = None,
        agreement: float | None = None,
        force: bool = False,
    ) -> TaskCalibration:
        """Fit a task's temperature, and its thresholds at an asked precision, recall or agreement; return both.

        From then on probabilities are those at the temperature, and a label below its threshold is ``abstain``.

        Args:
            texts: N rows, as for ``predict``; take dev rows, which the model was not trained on.
            labels: N labels, as for ``evaluate``.
            task: A task name.
            precision: For each label, the share of right rows among those that are given it.
            recall: For each label, the share of its rows that are given it.
            agreement: The share of right rows among the answered ones, with one threshold for all labels.
            force: Use the temperature even if it makes the calibration error of held-out rows larger (else it stays 1
                then, and the result's ``note`` says so), and thresholds below which no row is answered.

        Raises:
            BamError: If a row cannot be scored, a label does not belong to the task, the task is a regression, or no
                threshold reaches what was asked.
        """
        target = Target(precision, recall, agreement)
        found = self._labelled(texts, labels, task)
        return self.fit_calibration(task, self.logits(found.rows, [task])[task], found.gold, target, found.where, force)

    def fit_calibration(
        self,
        task: str,
        logits: NDArray[np.float32],
        gold: NDArray[np.generic],
        target: Target,
        where: str,
        force: bool = False,
    ) -> TaskCalibration:
        """Fit and set a task's calibration from logits ``[N, K]`` and encoded labels; see ``calibrate``."""
        self.decode(task, logits)  # refuses words
        self.calibration[task] = fit_calibration(
            self.tasks[task].label_names,
            gold,
            lambda calibration: self._decode(task, logits, calibration),
            lambda temperature: self.losses(task, logits / temperature, gold),
            target,
            where,
            force,
        )
        return self.calibration[task]

    def losses(self, task: str, logits: NDArray[np.float32], gold: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the loss ``[N]`` of each row's logits ``[N, K]`` against its encoded label, neither weighted by class
        nor smoothed."""
        head = self.head(task)
        outputs, labels = torch.from_numpy(logits).float().to(self.device), torch.from_numpy(gold).to(self.device)
        with torch.inference_mode():
            losses: NDArray[np.float32] = head.loss(outputs, head.encode_labels(labels)).cpu().numpy()
        return losses

    def embed(self, texts: Sequence[Row]) -> NDArray[np.float32]:
        """Return the encoder's pooled vector of each row: float32 ``[N, D]``.

        Raises:
            DataError: If a row does not hold one or two texts.
        """
        rows = _as_rows(texts)
        for number, row in enumerate(rows):
            if len(row) not in (1, 2) or not all(isinstance(text, str) for text in row):
                raise DataError(f"row {number}: expected one or two texts, got {row!r}")
        if not rows:
            return np.empty((0, self.encoder.width), np.float32)
        return self._run_encoder(rows, {"pooled": nn.Identity()})["pooled"]

    def row_logits(self, rows: Sequence[Sequence[Any]], tasks: Sequence[str]) -> dict[str, Any]:
        """Return task -> float32 logits ``[N, K]`` of rows of columns, of which each task makes its texts."""
        by_text: dict[tuple[str, ...], list[str]] = {}
        for task in tasks:
            text = self.tasks[task].text
            by_text.setdefault(text if any(map(is_template, text)) else (), []).append(task)
        found: dict[str, Any] = {}
        for text, names in by_text.items():
            found |= self.logits([self.tasks[names[0]].render(row) for row in rows] if text else rows, names)
        return found

    def logits(self, rows: Sequence[Sequence[Any]], tasks: Sequence[str]) -> dict[str, Any]:
        """Return task -> float32 logits ``[N, K]`` of texts, or ``Ragged`` ones of the words of N rows.

        Every head computes every row, whatever its task was trained to read; rows may have any number of texts. A task
        of choices, tags or answers reads rows of its own.
        """
        if not rows:
            empty = {task: np.empty((0, self.head(task).outputs), np.float32) for task in tasks}
            return {
                task: Ragged.from_counts(logits, []) if self.tasks[task].kind in ("tagging", "span") else logits
                for task, logits in empty.items()
            }
        own = [task for task in tasks if self.tasks[task].kind in ITEM_KINDS or self.head(task).uses != "pooled"]
        shared = {task: self.head(task) for task in tasks if task not in own}
        found = dict(self._run_encoder(rows, shared)) if shared else {}
        return {task: found[task] if task in found else self._item_logits(task, rows) for task in tasks}

    def _item_logits(self, task: str, rows: Sequence[Sequence[Any]]) -> Any:
        """Return the logits of a task whose rows have several items: choices or words."""
        info = self.tasks[task]
        texts = tuple(zip(*map(info.texts_of, rows), strict=True))
        tokens = tokenize_rows(info.layout, texts, self.tokenizer, self.info.max_length, self.info.truncation)
        examples, parts = {task: Examples(tokens, np.zeros(len(rows), dtype=np.int64))}, []
        for positions in length_batches(tokens.lengths):
            batch = collate(examples, [task] * len(positions), positions)
            with torch.inference_mode(), self._autocast():
                logits = self.model(batch.to(self.device))[task].float().cpu().numpy()
            parts.append((batch.tasks[task].row_ids.numpy(), logits))
        numbers, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        return in_row_order(numbers, logits, tokens.words)

    def calibrated_logits(self, rows: Sequence[Sequence[str]], tasks: Sequence[str]) -> dict[str, Any]:
        """Return task -> logits ``[N, K]``, divided by the task's temperature."""
        found = self.logits(rows, tasks)  # tags and answers have no calibration
        return {
            task: logits if isinstance(logits, Ragged) else logits / self.temperature(task)
            for task, logits in found.items()
        }

    def _run_encoder(
        self, rows: Sequence[Sequence[str]], outputs: Mapping[str, nn.Module]
    ) -> dict[str, NDArray[np.float32]]:
        """Encode N rows in batches of similar length; return the output of each module on the pooled vectors.

        Args:
            rows: N rows of texts.
            outputs: Name -> module that maps pooled vectors ``[B, D]`` to ``[B, K]``.

        Returns:
            Name -> float32 ``[N, K]``, in the order of ``rows``.
        """
        n_texts = np.array([len(row) for row in rows])
        order = np.argsort(n_texts, kind="stable")  # the tokenizer takes rows with the same number of texts at a time
        boundaries = np.flatnonzero(np.diff(n_texts[order])) + 1
        groups = [tuple(zip(*(rows[row] for row in group), strict=True)) for group in np.split(order, boundaries)]
        cut = (self.tokenizer, self.info.max_length, self.info.truncation)
        tokens = join([tokenize_rows(Layout(None, len(columns)), columns, *cut) for columns in groups])
        examples = {"": Examples(tokens, np.zeros(len(rows)))}
        batches = length_batches(tokens.lengths, self._batch_tokens())
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in outputs}
        for positions in batches:
            batch = collate(examples, [""] * len(positions), positions)
            with torch.inference_mode(), self._autocast():
                pooled = self.encoder(batch.to(self.device))  # [S, D]
                part = batch.tasks[""]
                pooled = pool_windows(pooled[part.positions], part)  # [B, D], in the order of positions
                for name, module in outputs.items():
                    parts[name].append(module(pooled).float().cpu().numpy())  # [B, K]
        inverse = np.argsort(order[np.concatenate(batches)], kind="stable")
        return {name: np.concatenate(values)[inverse] for name, values in parts.items()}

    def _batch_tokens(self) -> int:
        """Return the padded tokens of a batch: on a CPU, larger ones take memory and no less time."""
        return (
            min(PREDICT_TOKENS, CPU_TOKENS * torch.get_num_threads()) if self.device.type == "cpu" else PREDICT_TOKENS
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def postprocess(self, task: str, logits: Any, rows: Sequence[Sequence[Any]] = ()) -> list[Prediction]:
        """Convert a task's logits ``[N, K]`` to labels and probabilities by name; answers are texts of ``rows``."""
        if isinstance(logits, Ragged):
            return [
                self._postprocess_words(task, logits.row(row), rows[row] if rows else ()) for row in range(len(logits))
            ]
        names = self.tasks[task].label_names
        columns = (column.tolist() for column in self.decode(task, logits))
        return [
            Prediction(_label(value, names) if answered else ABSTAIN, dict(zip(names, row, strict=True)))
            for value, row, answered in zip(*columns, strict=True)
        ]

    def temperature(self, task: str) -> float:
        """Return what a task's logits are divided by; 1 without a calibration."""
        return self.calibration.get(task, TaskCalibration()).temperature

    def decode(self, task: str, logits: NDArray[np.float32]) -> Decoded:
        """Return the predictions of a task's logits ``[N, K]``, calibrated if the task has a calibration.

        Raises:
            ConfigError: For a task of tags or answers, whose rows have no class.
        """
        return self._decode(task, logits, self.calibration.get(task, TaskCalibration()))

    def _decode(self, task: str, logits: NDArray[np.float32], calibration: TaskCalibration) -> Decoded:
        if isinstance(logits, Ragged):
            raise ConfigError(
                f"task {task!r} predicts words, not a class or a score for each row: it can be evaluated and compared, "
                "but not calibrated"
            )
        head = self.head(task)
        tensor = torch.from_numpy(logits).to(self.device) / calibration.temperature
        with torch.inference_mode():
            values, probabilities = head.decode(tensor).cpu().numpy(), head.probabilities(tensor).cpu().numpy()
        return apply_thresholds(values, probabilities, calibration, self.tasks[task].label_names)

    def _postprocess_words(self, task: str, logits: NDArray[np.float32], row: Sequence[Any]) -> Prediction:
        head, info = self.head(task), self.tasks[task]
        tensor = torch.from_numpy(logits).to(self.device)
        with torch.inference_mode():
            values = cast(Any, head.decode)(tensor, None)
            shares = cast(Any, head.to_target_space)(tensor, None).cpu().numpy()  # [w, K]
        if info.kind == "tagging":
            tags = [None if value < 0 else info.label_names[value] for value in values.tolist()]
            return Prediction(tuple(tags), {}, {"scores": shares.max(axis=1).tolist() if len(tags) else []})
        first, last = values[0].tolist()
        context = row[1]
        words = words_of(context, "span")
        start, end = (int(words[first, 0]), int(words[last, 1])) if first >= 0 else (0, 0)
        score = float(shares[first, 0] * shares[last, 1]) if first >= 0 else 0.0
        return Prediction(context[start:end], {}, {"start": start, "end": end, "score": score})

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that ``load`` can read on any machine: weights, tokenizer, tasks, provenance, model card.

        A model that was saved in this folder before is replaced.

        Raises:
            OutputExistsError: If the folder holds something else.
            OSError: If it cannot be written.
        """
        target, source = Path(folder).expanduser(), self.info.run
        if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file()):
            raise OutputExistsError(f"{target} exists and does not hold a saved model; give a new folder")
        RunFolder(target, "give a new folder").check_links()
        for name in source.files():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.file(name), target / name)
        shutil.copyfile(source.path / MANIFEST, target / MANIFEST)
        self.save_calibration(target)
        card = model_card.make_card(replace(self.info, calibration=self.calibration))
        (target / model_card.NAME).write_text(card, encoding="utf-8")
        return target

    def save_calibration(self, folder: Path) -> None:
        """Write the calibration beside the weights in ``folder``, or delete one that the model no longer has."""
        if self.calibration:
            text = write_calibration(self.info.run.files()[WEIGHTS], self.calibration)
            write_text(folder / CALIBRATION, text)
        else:
            (folder / CALIBRATION).unlink(missing_ok=True)

    def push_to_hub(self, repo: str, private: bool = True, token: str | None = None) -> str:
        """Upload the files of ``save_pretrained`` to a model repository of the hub. Return its URL."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            return str(api.upload_folder(repo_id=repo, folder_path=self.save_pretrained(folder)))

    def export(self, output: str | Path, format: str = "bam", tasks: Sequence[str] = (), int8: bool = False) -> float:
        """Export the model and compare the export's logits with its own. Return the largest absolute difference.

        Args:
            output: The folder to write.
            format: ``bam`` (a folder for ``load``), ``hf`` (transformers classifiers) or ``onnx`` (one graph).
            tasks: Tasks to export with ``hf`` and ``onnx``; default: all.
            int8: With ``onnx``, also write a graph with 8-bit weights; ``export.json`` says how far its logits are.

        Raises:
            ConfigError: If the format is unknown or cannot express the model, or ``output`` cannot be replaced.
            StoreError: If the logits differ.
        """
        from bam_lightning.inference.bam_export import export_bam
        from bam_lightning.inference.hf_export import export_hf
        from bam_lightning.inference.onnx_export import export_onnx

        check_choice("format", format, EXPORT_FORMATS)
        folder = Path(output).expanduser()
        if int8 and format != "onnx":
            raise ConfigError(f"int8 is for format onnx, got format {format}")
        if format == "bam":
            if tasks:
                raise ConfigError("format bam exports the whole model; omit the tasks, or choose format hf or onnx")
            return export_bam(self, folder)
        for task in tasks or self.tasks:
            if task in self.tasks and self.head(task).uses == "pairs":
                raise ConfigError(
                    f"format {format}: the head of {task!r} reads all tokens of two texts, which this format does not "
                    "do; use format bam, or name other tasks"
                )
        return export_hf(self, folder, tasks) if format == "hf" else export_onnx(self, folder, tasks, int8)


def _as_rows(texts: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return each row as a tuple of texts. The texts themselves are checked by ``check_rows``."""
    if isinstance(texts, str):
        raise DataError("texts must be a list of rows, got a single string; put it into a list")
    rows = list(texts)  # may be an iterator
    for number, row in enumerate(rows):
        if not isinstance(row, (str, tuple, list)):
            raise DataError(f"row {number} must be a string or a list of strings, got {type(row).__name__}")
    return [(row,) if isinstance(row, str) else tuple(row) for row in rows]


def _label(value: Any, names: Sequence[str]) -> str | float | tuple[str, ...]:
    if not names:
        return float(value)
    if isinstance(value, list):
        return tuple(name for name, present in zip(names, value, strict=True) if present)
    return names[int(value)]


def load(
    name: str | Path,
    store: str | Path = "store",
    device: str = "auto",
    precision: str = "auto",
    heads: Sequence[str] = (),
    revision: str | None = None,
) -> Predictor:
    """Load a trained model for prediction.

    Args:
        name: A Run of ``store``, a folder, or a hub id.
        store: ``paths.store`` of the job that trained it.
        device: ``auto`` (CUDA if available), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``bf16-mixed`` or ``32-true``; ``auto`` is bf16-mixed for a model that was trained in it.
        heads: Dotted names of custom classes to import, of heads or of the encoder. No other code from outside this
            package is run.
        revision: Git revision of a hub id.

    Raises:
        StoreError: If there is no such model, or it is damaged.
        ConfigError: If it needs a head class that is not in ``heads``, or an option is unknown.
    """
    info = read_model_info(find_model(str(name), str(store), revision))
    hardware.prepare()
    spec = info.manifest["spec"]
    encoder, tokenizer, weights = load_encoder(info.run, str(spec["pooling"]), heads)
    check_length(encoder, info.max_length, str(info.run.path))
    built = {task: _build_head(info, task, encoder.width, weights.get(task, {}), heads) for task in info.tasks}
    resolved = _resolve_device(device)
    check_choice("precision", precision, ("auto", "bf16-mixed", "32-true"))
    trained = "bf16-mixed" if spec["precision"] == "bf16-mixed" else "32-true"
    settings = TrainerConfig(
        accelerator="cpu" if resolved == "cpu" else "gpu", precision=trained if precision == "auto" else precision
    )
    return Predictor(info, encoder, built, tokenizer, resolved, hardware.precision(settings))


def _resolve_device(name: str) -> str:
    available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name == "auto":
        return available[-1] if len(available) == 1 else available[1]
    name = "cuda:0" if name == "cuda" else name
    check_choice("device", name, available)
    return name


def _build_head(info: ModelInfo, name: str, width: int, weights: Mapping[str, Tensor], allowed: Sequence[str]) -> Head:
    for metric in info.tasks[name].own_metrics:
        trusted = isinstance(metric, str) or str(metric["_target_"]).startswith("torchmetrics.")
        if not trusted and metric["_target_"] not in allowed:
            raise ConfigError(
                f"task {name!r} of {info.run.path} is scored by {metric['_target_']!r}, which is not part of "
                f"torchmetrics; if you trust this code, allow it with --head {metric['_target_']} (in Python: "
                f"heads=[{metric['_target_']!r}])"
            )
    settings = head_arguments(info.tasks[name].head)
    settings.pop("loss", None)  # of training, as weights of classes are
    target = str(settings.get("_target_"))
    if target not in allowed and target not in HEADS:
        raise ConfigError(
            f"task {name!r} of {info.run.path} needs the head {target!r}, which is not part of bam_lightning; "
            f"if you trust this code, allow it with --head {target} (in Python: heads=[{target!r}])"
        )
    built_in = target in HEADS
    if built_in:  # they are of training: a calibration fits probabilities to labels as they are
        settings = {key: value for key, value in settings.items() if key not in ("class_weights", "label_smoothing")}
    with torch.device("meta" if built_in else "cpu"):  # sizes in a damaged manifest must not fill the memory
        head: Head = instantiate(f"{MANIFEST}: head of {name!r}", {"width": width, **settings}, Head)
    try:
        head.load_state_dict(
            {key: value.to(torch.float32, copy=True) for key, value in weights.items()} if built_in else weights,
            assign=built_in,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"{info.run.path}: the weights of head {name!r} do not fit: {reason}; {info.run.remedy}"
        ) from error
    return head
