"""The Lightning data module: one mixed stream to train on, and each task's rows to evaluate on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.data_config import TRUNCATIONS, label_columns
from bam_lightning.config.exceptions import ConfigError, DataError, TrainingError
from bam_lightning.config.names import check_name
from bam_lightning.config.teacher_config import TeacherSource, teacher_sources
from bam_lightning.config.validation import check_choice
from bam_lightning.data.collate import Examples, SharedRows, stream_units
from bam_lightning.data.examples import TaskExamples, TaskSplit, load_examples, read_each, share_rows
from bam_lightning.data.items import encode_rows, in_row_order, make_examples, tokenize_rows, word_counts
from bam_lightning.data.leaks import count_leaks
from bam_lightning.data.sampling import Sampler, SizeProportionalSampler
from bam_lightning.data.task import Task
from bam_lightning.data.teacher_columns import Column, check_covered
from bam_lightning.data.tokenization import LONGEST_FIRST, Tokens
from bam_lightning.models.adapters import adapt, to_plain_peft
from bam_lightning.models.encoder import (
    Encoder,
    check_length,
    check_vocabulary,
    encoder_notes,
    from_path,
    from_target,
    load_tokenizer,
)
from bam_lightning.models.multi_task import MultiTaskModel
from bam_lightning.store.atomic_io import atomic_write
from bam_lightning.store.provenance import versions
from bam_lightning.store.ragged import Ragged
from bam_lightning.training.distillation import Teacher, balanced_head, combine_columns, read_teacher
from bam_lightning.training.lightning import pl, rank_zero_info
from bam_lightning.training.loaders import EvalLoader, TrainLoader, Transform
from bam_lightning.training.outside import (
    FORMS_OF_ARRAYS,
    array_column,
    check_logits,
    is_frame,
    label_order,
    read_frame,
)
from bam_lightning.training.plain import to_plain
from bam_lightning.training.spec import VERSION, load_tokenizer_files, tokenizer_files, untrained_head


class ExamplesDataModule(pl.LightningDataModule):
    """Loaders over examples that are already tokenized.

    Args:
        train: task -> training examples, with teacher columns where it has a teacher.
        dev: task -> dev examples.
        predict: task -> examples to predict on; default: ``dev``.
        sampler: of the mixed stream.
        batch_size: examples of a batch, over all ranks.
        seed: of the stream.
        num_workers: loader processes.
        transform: see ``TrainLoader``.
        merge_equal_texts: encode texts of equal tokens once in a minibatch.
        task_weights: task -> factor on its example losses, beside what the sampler asks for.
        shared: name -> training rows that several tasks share; ``batch_size`` counts them once.
    """

    def __init__(
        self,
        train: Mapping[str, Examples],
        dev: Mapping[str, Examples] | None = None,
        predict: Mapping[str, Examples] | None = None,
        *,
        sampler: Sampler | None = None,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
        transform: Transform | None = None,
        merge_equal_texts: bool = False,
        task_weights: Mapping[str, float] | None = None,
        shared: Mapping[str, SharedRows] | None = None,
    ) -> None:
        super().__init__()
        self._shared_rows = dict(shared or {})
        self.task_weights = dict(task_weights or {})
        self.merge_equal_texts = merge_equal_texts
        self.transform = transform
        self._train, self._dev, self._predict = dict(train), dict(dev or {}), predict
        self._test: dict[str, Examples] = {}
        self._column_digests: dict[str, tuple[tuple[Any, ...], bytes]] = {}
        self.sampler = sampler or SizeProportionalSampler(0.75)
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers

    def train_examples(self) -> dict[str, Examples]:
        """Return task -> training examples."""
        return self._train

    def dev_examples(self) -> dict[str, Examples]:
        """Return task -> dev examples."""
        return self._dev

    def test_examples(self) -> dict[str, Examples]:
        """Return task -> labelled test examples."""
        return self._test

    def predict_examples(self) -> Mapping[str, Examples]:
        """Return task -> examples to predict on."""
        return self.dev_examples() if self._predict is None else self._predict

    def sampler_weights(self) -> dict[str, float]:
        """Return task -> factor on its example losses, as sampler and tasks ask for."""
        shared = self.shared_rows()
        weights = self.sampler.weights(stream_units(self.train_examples(), shared))
        for source, part in shared.items():
            weights |= dict.fromkeys(part.rows, weights.pop(source))
        return {task: weight * self.task_weights.get(task, 1.0) for task, weight in weights.items()}

    def shared_rows(self) -> Mapping[str, SharedRows]:
        """Return name -> training rows that several tasks share."""
        return self._shared_rows

    def digests(self) -> dict[str, str | None]:
        """Return hashes of the stream (sizes, sampler, batch size, seed) and of the teacher columns."""
        examples = self.train_examples()
        sizes = stream_units(examples, self.shared_rows())
        teachers = hashlib.sha256()
        for task, part in examples.items():
            if any(column is not None for column in part[2:]):
                teachers.update(task.encode() + self._columns_digest(task, part))
        stream = hashlib.sha256(repr((sizes, self.sampler, self.batch_size, self.seed)).encode())
        return {"stream": stream.hexdigest()[:16], "teachers": teachers.hexdigest()[:16]}

    def _columns_digest(self, task: str, examples: Examples) -> bytes:
        """Return a hash of a task's columns beside tokens and labels; taken once, since checkpoints ask for it."""
        columns = examples[2:]
        known = self._column_digests.get(task)
        if known is None or any(old is not new for old, new in zip(known[0], columns, strict=True)):
            digest = hashlib.sha256()
            for name, column in zip(Examples._fields[2:], columns, strict=True):
                if column is not None:
                    digest.update(name.encode() + column.tobytes())
            self._column_digests[task] = known = (columns, digest.digest())
        return known[1]

    def _current_trainer(self) -> Any:
        return self.trainer

    def __getstate__(self) -> dict[str, Any]:
        """Leave the Trainer out of copies and pickles, which go to other processes, or to another Trainer."""
        return {**vars(self), "trainer": None}

    def train_dataloader(self) -> TrainLoader:
        """Return the mixed stream."""
        return TrainLoader(
            self.train_examples(),
            self.sampler,
            self.batch_size,
            self.seed,
            self.num_workers,
            self._current_trainer,
            self.transform,
            self.shared_rows(),
            self.merge_equal_texts,
        )

    def _eval_loaders(self, examples: Mapping[str, Examples]) -> list[EvalLoader]:
        return [EvalLoader(task, part, self.num_workers, self._current_trainer) for task, part in examples.items()]

    def val_dataloader(self) -> list[EvalLoader]:
        """Return a loader per task over its dev rows."""
        return self._eval_loaders(self.dev_examples())

    def test_dataloader(self) -> list[EvalLoader]:
        """Return a loader per task over its labelled test rows."""
        return self._eval_loaders(self.test_examples())

    def predict_dataloader(self) -> list[EvalLoader]:
        """Return a loader per task over the rows to predict on."""
        return self._eval_loaders(self.predict_examples())


class MultiTaskDataModule(ExamplesDataModule):
    """The tasks of a multi-task model: their rows, tokens and teachers.

    Rows are read, checked and tokenized when they are first needed.

    Args:
        tasks: name -> task.
        encoder: hub id or folder of a pretrained encoder, which also brings the tokenizer.
        batch_size: examples of a batch, over all tasks and all ranks.
        max_length: tokens at which a text, or a pair of texts, is cut.
        pooling: ``pooler``, ``cls``, ``mean`` or ``last``, see ``Encoder``; default: what the checkpoint was trained
            with if it says so, else by family.
        truncation: ``longest_first``; ``head_tail``, which keeps the beginning and the end of a long text; or
            ``windows_mean`` or ``windows_max``, which read all of it in windows.
        encoder_module: the ``_target_`` form of your own module that returns token states; ``encoder`` is then the
            tokenizer's folder.
        layers, peft, freeze, gradient_checkpointing: what of the encoder is trained, and how; see ``adapt``.
        sampler: of the mixed stream; default: proportional to size ** 0.75 (section 4), of one task to its size.
        seed: of the stream; default ``PL_GLOBAL_SEED`` (``seed_everything``), else 0.
        data_seed: decides which rows become the dev split of a task that has none.
        num_workers: loader processes.
        cache_dir: folder for tokens.
        revision: of a hub id.
        merge_equal_texts: encode texts of equal tokens once in a minibatch; rows that several tasks share always are.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        encoder: str | Path,
        *,
        batch_size: int = 32,
        max_length: int = 128,
        pooling: str | None = None,
        truncation: str = LONGEST_FIRST,
        encoder_module: Mapping[str, Any] | None = None,
        layers: str | None = None,
        peft: Any = None,
        freeze: str | int | None = None,
        gradient_checkpointing: bool = False,
        sampler: Sampler | None = None,
        seed: int | None = None,
        data_seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | Path | None = None,
        revision: str | None = None,
        merge_equal_texts: bool = False,
    ) -> None:
        if not tasks:
            raise ConfigError("MultiTaskDataModule needs at least one task")
        for name in tasks:
            check_name("tasks", name)
        default = SizeProportionalSampler(0.75 if len(tasks) > 1 else 1.0)
        super().__init__(
            {},
            sampler=sampler or default,
            batch_size=batch_size,
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed,
            num_workers=num_workers,
            merge_equal_texts=merge_equal_texts,
            task_weights={name: task.weight for name, task in tasks.items()},
        )
        self.temperatures = {name: task.temperature for name, task in tasks.items() if task.temperature != 1}
        self.tasks, self.encoder_path, self.revision = dict(tasks), str(encoder), revision
        self.max_length, self.pooling, self.data_seed = max_length, pooling, data_seed
        check_choice("truncation", truncation, TRUNCATIONS)
        self.truncation, self.encoder_module = truncation, None if encoder_module is None else dict(encoder_module)
        self.encoder_options: dict[str, Any] = {
            "layers": layers,
            "peft": to_plain_peft(peft) if peft else None,
            "freeze": freeze,
            "gradient_checkpointing": gradient_checkpointing,
        }
        self.cache_dir = Path(cache_dir) if cache_dir else Path(tempfile.gettempdir()) / "bam_lightning"
        self._rows: dict[str, TaskExamples] = {}
        self._teachers: dict[str, Teacher] = {}
        self._shared: tuple[dict[str, Examples], dict[str, SharedRows]] | None = None
        self._train_splits: dict[str, TaskSplit] = {}
        self._tokenizer: Any = None
        self._split_cache: dict[str, dict[str, Examples]] = {}
        self._log_hyperparams = True

    @property
    def hparams_initial(self) -> Any:
        """What loggers get beside the module's options, under ``data``; checkpoints hold the module's ``spec``."""
        options = {
            "tasks": list(self.tasks),
            "encoder": self.encoder_path,
            "revision": self.revision,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "pooling": self.pooling,
            "truncation": self.truncation,
            "sampler": self.sampler,
            "seed": self.seed,
            "data_seed": self.data_seed,
            "merge_equal_texts": self.merge_equal_texts,
            "encoder_module": self.encoder_module,
            **self.encoder_options,
        }
        return {
            **super().hparams_initial,
            "data": to_plain({key: value for key, value in options.items() if value is not None}),
        }

    @property
    def rows(self) -> dict[str, TaskExamples]:
        """Task -> its checked rows; read at first need."""
        if not self._rows:
            self._rows = read_each(self.tasks, lambda name: load_examples(name, self.tasks[name], self.data_seed))
            for note in (note for examples in self._rows.values() for note in examples.notes):
                rank_zero_info(note)
            for line in count_leaks(self._rows):
                rank_zero_info(line)
        return self._rows

    @property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.encoder_path, self.revision)
        return self._tokenizer

    def build_encoder(self) -> Encoder:
        """Load the pretrained encoder."""
        if self.encoder_module is not None:
            encoder = from_target(self.encoder_module, self.pooling)
        else:
            encoder = from_path(self.encoder_path, self.revision, self.pooling)
        adapt(encoder, **self.encoder_options)
        for note in encoder_notes(encoder, self.tokenizer):
            rank_zero_info(note)
        check_vocabulary(encoder, self.tokenizer, f"encoder {self.encoder_path!r}")
        check_length(encoder, self.max_length, "max_length")
        return encoder

    def head_configs(self) -> dict[str, Any]:
        """Return task -> its head as a ``_target_`` form, or a function of the encoder's width."""
        return {
            name: balanced_head(examples.task.head_config, examples.train.labelled().labels)
            for name, examples in self.rows.items()
        }

    def spec(self, model: MultiTaskModel) -> dict[str, Any]:
        """Describe a model of these tasks in plain types: tasks, heads, encoder configuration, tokenizer files."""
        tasks, heads = {}, self.head_configs()
        for name, examples in self.rows.items():
            task, config = examples.task, heads[name]
            tasks[name] = {
                "head": None if callable(config) else to_plain(config),
                "text": list(task.text) if not isinstance(task.text, str) else [task.text],
                "choices": list(task.choices),
                "kind": task.kind,
                **label_columns(task.label, task.annotators, task.label_separator),
                "metric": to_plain(task.metric),
                **({"secondary_metrics": to_plain(task.secondary_metrics)} if task.secondary_metrics else {}),
                "allow_empty_text": bool(task.allow_empty_text),
            }
        return {
            "version": VERSION,
            "tasks": tasks,
            "metrics": {name: to_plain(examples.task.metrics) for name, examples in self.rows.items()},
            "average": [name for name, examples in self.rows.items() if examples.task.in_average],
            "encoder": to_plain(model.encoder.describe()),
            "pooling": model.encoder.pooling,
            "encoder_options": to_plain(self.encoder_options),
            "base": model.encoder.base,
            "max_length": self.max_length,
            "truncation": self.truncation,
            "tokenizer": tokenizer_files(self.tokenizer),
        }

    def _examples(self, part: str) -> dict[str, Examples]:
        if part not in self._split_cache:
            found = {}
            for name, rows in self.rows.items():
                split: TaskSplit | None = getattr(rows, part)
                if split is None or not len(split.keys) or (part == "test" and _unlabelled(split)):
                    continue
                if name not in self._teachers:
                    split = split.labelled()
                if part == "train":
                    self._train_splits[name] = split
                if not len(split.keys):
                    raise DataError(
                        f"task {name!r}: no training row has a gold label, and there is no teacher; give one with "
                        "data.teach"
                    )
                tokens = self._tokens_of(split)
                if tokens.n_truncated:
                    rank_zero_info(
                        f"{name}: {tokens.n_truncated:,} of {len(split.keys):,} {part} rows are cut at "
                        f"{self.max_length} tokens ({self.truncation})"
                    )
                found[name] = make_examples(split, tokens, scored=part != "train")
            self._split_cache[part] = found
        return self._split_cache[part]

    def train_examples(self) -> dict[str, Examples]:
        """Return task -> training examples, with the columns of their teachers."""
        found = {
            name: examples._replace(**self._teachers.get(name, Teacher())._asdict())
            for name, examples in self._examples("train").items()
        }
        for name, examples in found.items():
            examples.check_targets(name)
        return found

    def shared_rows(self) -> Mapping[str, SharedRows]:
        """Return name -> training rows of a source that several tasks label, in an order of their content."""
        examples = self._examples("train")
        if self._shared is not None and self._shared[0] is examples:
            return self._shared[1]
        groups: dict[tuple[str, int], list[str]] = {}  # two sources may have labels of the same names
        for name in examples:
            if (task := self.rows[name].task).row_group:
                groups.setdefault((task.row_group, id(task.source)), []).append(name)
        shared = {
            "+".join(names): SharedRows(share_rows({name: self._train_splits[name] for name in names}))
            for names in groups.values()
            if len(names) > 1
        }
        self._shared = (examples, shared)
        return shared

    def dev_examples(self) -> dict[str, Examples]:
        """Return task -> dev examples."""
        return self._examples("dev")

    def test_examples(self) -> dict[str, Examples]:
        """Return task -> labelled test examples."""
        found = self._examples("test")
        if not found:
            raise DataError("no task has a labelled test split, so there is nothing to test on; use validate")
        return found

    def only(self, task: str, batch_size: int = 32, **changes: Any) -> MultiTaskDataModule:
        """Return a data module of one task over the same checked rows, without its teacher.

        Args:
            task: name of the task.
            batch_size: examples of a batch.
            changes: other options of ``MultiTaskDataModule``, for example ``encoder``.
        """
        check_choice("task", task, self.tasks)
        options = {
            "encoder": self.encoder_path,
            "max_length": self.max_length,
            "pooling": self.pooling if "encoder" not in changes else None,
            "truncation": self.truncation,
            "encoder_module": self.encoder_module if "encoder" not in changes else None,
            **(self.encoder_options if "encoder" not in changes else {}),
            "seed": self.seed,
            "data_seed": self.data_seed,
            "num_workers": self.num_workers,
            "cache_dir": self.cache_dir,
            "revision": self.revision if "encoder" not in changes else None,
            **changes,
        }
        single = MultiTaskDataModule({task: self.tasks[task]}, batch_size=batch_size, **options)
        single._rows = {task: self.rows[task]}
        return single

    def teach(
        self, task: str, source: Any, trainer: Any = None, *, weights: Sequence[float] | None = None, **options: Any
    ) -> None:
        """Take predictions on a task's training rows as its teacher; a second call replaces the first.

        Args:
            task: name of the task.
            source: a ``BamModule`` or ``Predictor`` that has the task; a folder or a ``.ckpt`` of a model; a table of
                predictions (``.csv``, ``.parquet``, ..., see ``TeacherSource``), whose rows are matched by content;
                a data frame of such rows; the id of a Run; an id of the hub; an array ``[N, K]`` in the order of
                ``self.rows[task].train`` and of its label names; or a list of these, an ensemble, averaged over the
                members that cover a row. With several processes, every rank gives the same source.
            trainer: predicts with a ``BamModule``; default: the Trainer it was last used with, else one on one device.
            weights: of the members of an ensemble; default: equal.
            options: of a table, see ``TeacherSource``: ``probabilities="p_*"``, ``missing="gold"`` and so on. Of an
                array ``form``: ``logits`` (default), ``probabilities`` or, of a regression task, ``values`` in label
                units.

        Raises:
            ConfigError: for options that do not fit the source.
            DataError: for a table that does not fit the rows; for an array of another shape or form, or that is not
                finite; for a model whose labels are not those of the task.
            TrainingError: for a Trainer whose strategy starts processes by spawn or fork.
        """
        check_choice("task", task, self.tasks)
        form = options.pop("form", None)
        members = [
            teacher_sources(f"teacher of {task!r}", member, **options)[0]
            if isinstance(member, (str, Path, Mapping, TeacherSource))
            else member
            for member in (source if isinstance(source, (list, tuple)) else [source])
        ]
        files = [member for member in members if isinstance(member, TeacherSource) and member.is_file]
        frames = [member for member in members if is_frame(member)]
        if options and not files and not frames:
            raise ConfigError(
                f"teacher of {task!r}: {', '.join(options)} is for a table of predictions; leave it out, or say the "
                f"form of an array with form=, one of {', '.join(FORMS_OF_ARRAYS)}"
            )
        if not members or len(weights or members) != len(members):
            raise ConfigError(f"teacher of {task!r}: {len(members)} sources and {len(weights or ())} weights")
        for weight in weights or ():
            if not 0 < weight < math.inf:
                raise ConfigError(f"teacher of {task!r}: weights must be above 0 and finite, got {list(weights or ())}")
        rows = self.rows[task]
        columns = [self._column(task, member, trainer, len(members) == 1, form, options) for member in members]
        for column in columns:
            for note in column.notes:
                rank_zero_info(note)
        weights = weights or [member.weight if isinstance(member, TeacherSource) else 1.0 for member in members]
        head = untrained_head(task, rows.task.head_config)
        taught = combine_columns(task, str(rows.task.kind), columns, weights, head, rows.task.temperature)
        missing = [file.missing for file in files] + [options.get("missing", "error") for _ in frames]
        check_covered(task, taught.has_teacher, missing)
        self._teachers[task] = taught
        if rows.train.has_gold is not None:  # rows without gold are trained on from now on
            self._split_cache.pop("train", None)

    def _column(
        self, task: str, source: Any, trainer: Any, alone: bool, form: str | None, options: Mapping[str, Any]
    ) -> Column:
        examples = self.rows[task]
        if isinstance(source, TeacherSource):
            if source.is_file:
                return read_teacher(task, examples, source, alone)
            source = source.path
        if is_frame(source):
            return read_frame(task, examples, source, alone, options)
        if isinstance(source, str) or hasattr(source, "predict_step") or hasattr(source, "logits"):
            logits = teacher_logits(task, source, examples, self.cache_dir, trainer, self._tokens_of)
            return Column("logits", check_logits(task, logits, examples.train))
        logits = source if isinstance(source, Ragged) else np.asarray(source, dtype=np.float32)
        return array_column(task, examples, logits, form)

    def _tokens_of(self, split: TaskSplit) -> Tokens:
        return encode_rows(split, self.tokenizer, self.max_length, self.cache_dir, self.truncation)

    @property
    def taught(self) -> list[str]:
        """Names of the tasks that have a teacher."""
        return list(self._teachers)


def teacher_logits(
    task: str,
    model: Any,
    examples: TaskExamples,
    cache_dir: Path,
    trainer: Any = None,
    tokens_of: Callable[[TaskSplit], Tokens] | None = None,
) -> Any:
    """Return the logits ``[N, K]`` of a model that has the task, or ``Ragged`` ones of the words of N rows.

    Args:
        task: name of the task.
        model: a ``BamModule`` or ``Predictor``; a folder, a ``.ckpt``, a Run or a hub id.
        examples: the task's rows; logits are in the order of its label names.
        cache_dir: folder for the logits of saved models.
        trainer: predicts with a ``BamModule``; default: the Trainer it was last used with, else one on one device.
        tokens_of: tokenizes rows for a ``BamModule`` that does not know its tokenizer.

    Raises:
        DataError: for a model whose labels or range are not those of the task.
        TrainingError: for a Trainer whose strategy starts processes by spawn or fork.
    """
    if isinstance(model, str):
        model = _load_teacher(model)
    check_choice("task", task, model.tasks)
    head = untrained_head(task, examples.task.head_config)
    if hasattr(model, "predict_step"):
        order = label_order(task, model.model.head(task), head)
        logits = _predict(task, model, examples.train, trainer, tokens_of)
    else:
        order = label_order(task, model.head(task), head)
        logits = _cached_logits(task, model, examples.train, cache_dir)
    if order is None:
        return logits
    if isinstance(logits, Ragged):
        return Ragged(np.ascontiguousarray(logits.values[:, order]), logits.offsets)
    return np.ascontiguousarray(logits[:, order])


def _cached_logits(task: str, predictor: Any, split: TaskSplit, cache_dir: Path) -> Any:
    """Return a saved model's logits; they are cached by its files, its precision, versions and the rows."""
    model = predictor.info
    parts = [model.run.files(), model.max_length, predictor.precision, str(predictor.device), versions(), task]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode() + b"".join(split.keys)).hexdigest()[:32]
    path = cache_dir / "teachers" / f"{key}.npy"
    if path.is_file():
        with suppress(ValueError, EOFError):  # damaged: predict again
            return _of_rows(np.load(path, allow_pickle=False), split)
    found = predictor.logits(list(zip(*split.texts, strict=True)), [task])[task]
    values = found.values if isinstance(found, Ragged) else found
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)
    return _of_rows(values, split)


def _of_rows(values: NDArray[np.float32], split: TaskSplit) -> Any:
    words = word_counts(split)
    return values if words is None else Ragged.from_counts(values, words)


def _predict(
    task: str, module: Any, split: TaskSplit, trainer: Any, tokens_of: Callable[[TaskSplit], Tokens] | None
) -> Any:
    """Return a module's logits, of rows that are tokenized as that module asks for."""
    spec = module.spec or {}
    if spec:
        cut = spec.get("truncation", LONGEST_FIRST)
        tokenizer, longest = load_tokenizer_files(spec["tokenizer"]), int(spec["max_length"])
        tokens = tokenize_rows(split.layout, split.texts, tokenizer, longest, cut)
    else:
        assert tokens_of is not None
        tokens = tokens_of(split)
    examples = make_examples(split, tokens)
    data = ExamplesDataModule({}, predict={task: examples})
    trainer = trainer or module._trainer
    if trainer is None:
        options: Any = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        trainer = pl.Trainer(accelerator="auto", devices=1, **options)
    if type(trainer.strategy.launcher).__name__ == "_MultiProcessingLauncher":
        raise TrainingError(
            "data.teach cannot predict with a Trainer that starts processes by spawn or fork, since their "
            "predictions are not returned; use strategy='ddp' under torchrun, or another trainer="
        )
    with whole_prediction(trainer):
        parts = trainer.predict(module, datamodule=data)
    return logits_in_order(parts, task, examples)


def logits_in_order(parts: Sequence[Any], task: str, examples: Examples) -> Any:
    """Return the logits ``[N, K]`` of a task in the order of its rows, or ``Ragged`` ones of the words of N rows.

    Args:
        parts: what ``trainer.predict`` returns for a ``BamModule``.
        task: name of the task.
        examples: the rows that were predicted.

    Raises:
        TrainingError: unless every row was predicted once.
    """
    rows = np.concatenate([part[task][0].numpy() for part in parts])
    if not np.array_equal(np.sort(rows), np.arange(len(examples.labels))):
        raise TrainingError(f"the Trainer did not predict every row of {task!r} once")
    logits = np.concatenate([part[task][1].numpy() for part in parts])
    return in_row_order(rows, logits, examples.tokens.words)


@contextmanager
def whole_prediction(trainer: Any) -> Iterator[None]:
    """Predict on all rows whatever ``limit_predict_batches`` says, and without callbacks."""
    limit, callbacks = trainer.limit_predict_batches, trainer.callbacks
    trainer.limit_predict_batches, trainer.callbacks = 1.0, []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            yield
    finally:
        trainer.limit_predict_batches, trainer.callbacks = limit, callbacks


def _unlabelled(split: TaskSplit) -> bool:
    if isinstance(split.labels, Ragged):
        return not (split.labels.values >= 0).any()
    return bool(split.labels.dtype.kind == "i" and (split.labels < 0).any())


def _load_teacher(source: str | Path) -> Any:
    """Return the model of a checkpoint, a folder, a Run or a hub id."""
    if str(source).endswith(".ckpt"):
        from bam_lightning.training.module import BamModule

        return BamModule.load_from_checkpoint(source, map_location="cpu", weights_only=True)
    table = "a table with the task's text columns and a column logits_LABEL (p_LABEL) for each label"
    if str(source).endswith((".npy", ".npz", ".pt", ".pkl")):
        raise ConfigError(f"teacher {str(source)!r}: its rows are not known by their texts; give {table}, or the array")
    if (Path(source) / "config.json").is_file() and not (Path(source) / "run.json").is_file():
        raise ConfigError(f"teacher {str(source)!r} is a model of transformers; write its predictions to {table}")
    return import_module("bam_lightning").load(source)
