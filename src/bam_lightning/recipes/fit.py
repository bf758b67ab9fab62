"""Train one Run from start to finish: build the data and the module from the config, fit, predict, store."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bam_lightning.config.exceptions import ConfigError, TrainingError
from bam_lightning.config.hub import encoder_fingerprint
from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.job_config import Config, StageKind
from bam_lightning.config.signals import SignalListener, raise_on_signal
from bam_lightning.data.collate import Examples, SharedRows, stream_units, unit_lengths
from bam_lightning.data.examples import TaskExamples, TaskSplit, folds_of, hash_texts, share_rows
from bam_lightning.data.items import encode_rows, make_examples
from bam_lightning.data.sampling import Sampler, SizeProportionalSampler
from bam_lightning.data.teacher_columns import Column
from bam_lightning.data.tokenization import LONGEST_FIRST, Tokens, encode
from bam_lightning.metrics.own_metric import build_metric
from bam_lightning.models import hardware, kernels
from bam_lightning.models.adapters import adapt
from bam_lightning.models.encoder import (
    Encoder,
    check_length,
    check_vocabulary,
    encoder_notes,
    from_path,
    from_sizes,
    from_target,
    load_tokenizer,
)
from bam_lightning.models.heads import Head, build_head
from bam_lightning.models.multi_task import MultiTaskModel
from bam_lightning.models.saving import load_encoder, save_state
from bam_lightning.recipes import predictions
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.manifest import conditions, make_manifest
from bam_lightning.recipes.teachers import column_named
from bam_lightning.store.atomic_io import translate_os_errors, write_text
from bam_lightning.store.run_spec import COLUMN, TRAIN, PredictionRequest, Run
from bam_lightning.store.run_store import load_logits
from bam_lightning.training.callbacks import History, Progress, RunCheckpoint, last_checkpoint
from bam_lightning.training.datamodule import ExamplesDataModule
from bam_lightning.training.distillation import Teacher, balanced_head, combine_columns
from bam_lightning.training.lightning import localize, pl, rank_zero_info
from bam_lightning.training.loggers import finish, log_end, make_loggers
from bam_lightning.training.masked_lm import TASK, MaskedModule, TokenMasker, make_tokenizer
from bam_lightning.training.module import BamModule
from bam_lightning.training.optimizer import BertAdam
from bam_lightning.training.plain import from_plain
from bam_lightning.training.schedules import Schedule
from bam_lightning.training.trainer import check_devices, check_flags, make_trainer


class Prepared(NamedTuple):
    """What a Run is trained with. ``tokens`` is the number of tokens that it will see."""

    module: BamModule | MaskedModule
    data: ExamplesDataModule
    tokenizer: Any
    tokens: int


def check_trainable(config: Config) -> None:
    """Raise what would stop a Run later: a device that is not there, a head that cannot be built."""
    check_devices(config.trainer)
    check_flags(config.trainer)
    if config.run.compile and not hardware.on_gpu(config.trainer):
        raise ConfigError("run.compile=true is for GPUs; on a CPU layers are fused already, so leave it out")
    for name, section in config.callbacks.items():
        instantiate(f"callbacks.{name}", {**section, "_target_": localize(str(section.get("_target_")))}, pl.Callback)
    for name, task in config.suite.trained().items():
        build_head(f"suite.tasks.{name}.head", 8, task.head.arguments())
        for place, metric in enumerate(task.metrics):
            if not isinstance(metric, str):
                build_metric(f"suite.tasks.{name}.{'secondary_metrics' if place else 'metric'}", metric, not place)


@raise_on_signal()
def fit_run(run: Run, context: Context) -> dict[str, Any]:
    """Train ``run``, score it on dev, keep it in the store and return its manifest.

    A Run that was stopped resumes from its last checkpoint. All ``run.dependencies`` must be finished. In a
    multi-process job only rank 0 writes and returns the manifest.

    Raises:
        Stopped: on Ctrl-C and the other signals; in training with a checkpoint.
        StoreError, DataError: for damaged files or missing teacher rows.
        TrainingError: for a non-finite loss.
    """
    hardware.prepare()
    kernels.enable(context.config.run.kernels)
    with context.together("train", run):
        context = context.of_stage(run.stage)
        prepared = prepare_run(run, context)
        folder = context.store.staging_dir(run.id)
        loggers = make_loggers(run, context.config, context.output) if context.is_rank_zero else []
        checkpoints, history = _fit(run, context, prepared, folder, loggers)
        if run.kind is StageKind.finetune:
            if context.is_rank_zero:
                context.store.delete_predictions(run.id)
            _write_predictions(run.id, predictions.requests_of(run, context), context, prepared)
        module = prepared.module
        encoder = module.encoder if isinstance(module, MaskedModule) else module.model.encoder
        if isinstance(module, MaskedModule):
            state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
        else:
            state = module.full_state()  # every rank gives its share
    if not context.is_rank_zero:
        return {}
    _check_unchanged(run, context.config)
    scores = predictions.score_run(run, context) if isinstance(module, BamModule) else {}
    with translate_os_errors(folder):
        about = save_state(folder, state, encoder, prepared.tokenizer)
    if (reason := encoder.refusal()) is not None:
        about["padded"] = reason
    if checkpoints.changes:
        about["resumed_under_others"] = checkpoints.changes
    write_text(folder / "history.json", json.dumps(history.rows))
    write_text(folder / "dev_scores.json", json.dumps(history.scores))
    manifest = {**make_manifest(run, context, checkpoints.seconds, prepared.tokens, scores, _count(state)), **about}
    for logger in loggers:
        log_end(logger, manifest)
        finish(logger)
    context.store.commit(run.id, manifest)
    return manifest


def _count(state: Mapping[str, Any]) -> int:
    return sum(value.numel() for value in state.values())


def prepare_run(run: Run, context: Context) -> Prepared:
    """Return the module and the data of a Run."""
    torch.manual_seed(int(np.random.SeedSequence([run.seed, 4]).generate_state(1)[0]))
    context = context.of_stage(run.stage)
    return (_pretraining if run.kind is StageKind.pretrain else _finetuning)(run, context)


def _fit(
    run: Run, context: Context, prepared: Prepared, folder: Path, loggers: Sequence[Any]
) -> tuple[RunCheckpoint, History]:
    config, listener = context.config, SignalListener()
    settings = config.trainer
    every = config.run.checkpoint_minutes, config.run.checkpoint_steps
    checkpoints = RunCheckpoint(folder, *every, listener, conditions(config))
    history = History()
    # history first, so that a checkpoint holds the row of its own step
    callbacks = [history, checkpoints, Progress(context.listener)]
    for name, section in config.callbacks.items():
        target = localize(str(section.get("_target_")))
        callbacks.append(instantiate(f"callbacks.{name}", {**section, "_target_": target}, pl.Callback))
    settings = replace(settings, extra={**_validation(run, config, prepared), **settings.extra})
    if run.kind is StageKind.pretrain and settings.strategy == "fsdp":
        settings = replace(settings, strategy="ddp")  # the encoder is small enough to be pretrained from scratch here
    trainer = make_trainer(settings, context.output, run.steps, loggers, callbacks)
    saved = last_checkpoint(folder)
    if hardware.precision(settings) == "64-true":
        prepared.module.double()  # before a checkpoint's weights are loaded, which would be rounded otherwise
    with warnings.catch_warnings(), listener:
        warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are made in under 1 ms
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", ".*lr_scheduler.step.*")
        warnings.filterwarnings("ignore", ".*val_dataloader. but have no .validation_step.*")  # pretraining has none
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # a resumed Run goes on in its folder
        trainer.fit(prepared.module, datamodule=prepared.data, ckpt_path=saved, weights_only=True)
    assert trainer.global_step == run.steps
    return checkpoints, history


def _check_unchanged(run: Run, config: Config) -> None:
    """Raise ``TrainingError`` if the encoder's files are no longer those that the Run's id names."""
    path = config.encoder.path
    if run.init_from or not path or not Path(path).expanduser().is_dir():
        return
    if not run.spec["encoder"].endswith(encoder_fingerprint(path, config.encoder.revision)):
        raise TrainingError(
            f"the files of encoder {path} have changed while Run {run.id} was trained, so its weights are not "
            "those that its id stands for; start the job again"
        )


def _validation(run: Run, config: Config, prepared: Prepared) -> dict[str, Any]:
    """Return the flags that have dev scores logged ``run.validations`` times in a Run, and not at its end."""
    times = config.run.validations
    if not times or not prepared.data.dev_examples() or run.steps <= times:
        return {"limit_val_batches": 0}
    accumulate = int(config.trainer.extra.get("accumulate_grad_batches", 1))
    return {"val_check_interval": run.steps // times * accumulate, "check_val_every_n_epoch": None}


def _finetuning(run: Run, context: Context) -> Prepared:
    config = context.config
    encoder, tokenizer, kept = _start(run, context)
    settings = config.encoder
    adapt(
        encoder,
        layers=settings.layers,
        peft=None if encoder.adapters else settings.peft,  # it goes on with those that it was saved with
        freeze=settings.freeze,
        gradient_checkpointing=settings.gradient_checkpointing,
    )
    check_length(encoder, config.data.max_length, "data.max_length")
    encoder.call_tokens = config.run.call_tokens
    if config.run.compile:
        encoder.compile_layers()
    tokenized = tokens_of(context, tokenizer)
    train, splits = {}, {}
    for task in run.tasks:
        split = context.rows[task].train
        if run.fold is not None:
            split = split.take(np.flatnonzero(folds_of(split.keys, run.fold[1]) != run.fold[0]))
        if task not in run.teachers:
            split = split.labelled()
        splits[task] = split
        examples = make_examples(split, tokenized(split))
        train[task] = examples._replace(**_teacher(run, context, task, split)._asdict())
        train[task].check_targets(task)
    sampler: Sampler = (
        instantiate("sampler", config.sampler, Sampler) if len(train) > 1 else SizeProportionalSampler(1.0)
    )
    dev = {}
    if config.run.validations:
        for task in run.tasks:
            split = context.rows[task].dev
            dev[task] = make_examples(split, tokenized(split), scored=True)
    groups = run.spec.get("shared_rows", ())
    shared = {"+".join(tasks): SharedRows(share_rows({task: splits[task] for task in tasks})) for tasks in groups}
    data = ExamplesDataModule(
        train,
        dev,
        sampler=sampler,
        batch_size=run.batch_size,
        seed=run.seed,
        num_workers=config.data.workers,
        task_weights={task: config.suite.tasks[task].weight for task in run.tasks},
        shared=shared,
    )
    optimization = config.optimization
    assert run.hyper.learning_rate is not None
    assert run.hyper.layerwise_decay is not None
    module = BamModule(
        model=MultiTaskModel(encoder, _heads(run.tasks, encoder, kept, config, context.rows)),
        temperatures={task: config.suite.tasks[task].temperature for task in run.tasks},
        learning_rate=run.hyper.learning_rate,
        layerwise_decay=run.hyper.layerwise_decay,
        annealing=instantiate("distillation.schedule", config.distillation.schedule, Schedule),
        optimizer=_optimizer(config),
        lr_schedule=optimization.lr_schedule.value,
        warmup=optimization.warmup,
        weight_decay=optimization.weight_decay,
        gradient_clip_val=optimization.clip_norm,
        metrics={task: config.suite.tasks[task].metrics for task in run.tasks},
        average=[task for task in run.tasks if config.suite.tasks[task].in_average],
        seed=run.seed,
    )
    rows = sampler.stream(stream_units(train, shared), run.steps, run.batch_size, run.seed).rows
    lengths = unit_lengths(train, shared)
    return Prepared(module, data, tokenizer, int(lengths[rows[rows >= 0]].sum()))


def _optimizer(config: Config) -> Any:
    settings = config.optimization
    if settings.optimizer:
        return from_plain("optimization.optimizer", settings.optimizer, None, torch.optim.Optimizer, partial=True)
    kind = torch.optim.AdamW if settings.bias_correction else BertAdam
    fused = config.trainer.precision != "16-mixed"  # a fused step unscales gradients after they were clipped
    return partial(kind, eps=settings.epsilon, fused=fused)


def new_tokenizer(context: Context) -> Any:
    """Return the tokenizer of the job's encoder."""
    settings = context.config.encoder
    if settings.path:
        return load_tokenizer(settings.path, settings.revision)
    return make_tokenizer(context.pretraining_texts, settings.pretraining.vocab_size)


def tokens_of(context: Context, tokenizer: Any) -> Callable[[TaskSplit], Tokens]:
    """Return a function from a split to its tokens, which are cached."""
    cache = Path(context.config.paths.cache)
    data = context.config.data
    return partial(
        encode_rows, tokenizer=tokenizer, max_length=data.max_length, cache=cache, truncation=data.truncation
    )


def cut_notes(context: Context) -> list[str]:
    """Return a sentence for each task with rows that are longer than ``data.max_length``."""
    data, notes = context.config.data, []
    tokenized = tokens_of(context, new_tokenizer(context))
    for task, rows in context.rows.items():
        splits = {"training": rows.train, "dev": rows.dev}
        cut = {name: (tokenized(split).n_truncated, len(split.keys)) for name, split in splits.items()}
        if any(count for count, _ in cut.values()):
            parts = " and ".join(f"{count:,} of {total:,} {name}" for name, (count, total) in cut.items())
            notes.append(f"{task}: {parts} rows are cut at {data.max_length} tokens ({data.truncation})")
    return notes


def _heads(
    tasks: Iterable[str],
    encoder: Encoder,
    kept: Mapping[str, dict[str, torch.Tensor]],
    config: Config,
    rows: Mapping[str, TaskExamples] | None = None,
) -> dict[str, Head]:
    """Return a head per task, with the weights ``kept`` from an earlier Run where it had that head.

    The training ``rows`` balance the weights of classes; predictions need none.
    """
    heads: dict[str, Head] = {}
    for task in tasks:
        settings = config.suite.tasks[task].head.arguments()
        if rows is not None:
            settings = balanced_head(settings, rows[task].train.labelled().labels)
        heads[task] = build_head(f"suite.tasks.{task}.head", encoder.width, settings)
        if task in kept:
            heads[task].load_state_dict(kept[task])
    return heads


def _teacher(run: Run, context: Context, task: str, split: TaskSplit) -> Teacher:
    """Return what teaches a task: stored logits of Runs, predictions from outside, or nothing."""
    if task in run.folded:
        return Teacher(_out_of_fold_logits(run.teachers[task], context, task, split))
    columns = [
        column_named(name, context.rows[task])
        if name.startswith(COLUMN)
        else Column("logits", load_logits(context.store, name, task, TRAIN, split.keys, split.texts))
        for name in run.teachers.get(task, ())
    ]
    if not columns:
        return Teacher()
    weights = run.teacher_weights.get(task, (1.0,) * len(columns))
    with torch.random.fork_rng(devices=[]):  # the weights of the Run's own heads are drawn later
        head = build_head(f"suite.tasks.{task}.head", 1, context.config.suite.tasks[task].head.arguments())
    temperature = context.config.suite.tasks[task].temperature
    return combine_columns(task, str(context.rows[task].task.kind), columns, weights, head, temperature)


def _out_of_fold_logits(teachers: Sequence[str], context: Context, task: str, split: TaskSplit) -> Any:
    """Return for each row the logits ``[N, K]`` of the teacher that was not trained on it."""
    fold_of = dict(zip(keys := context.rows[task].train.keys, folds_of(keys, len(teachers)), strict=True))
    folds = np.array([fold_of[key] for key in split.keys])
    found: Any = None
    for number, teacher in enumerate(teachers):
        rows = np.flatnonzero(folds == number)
        if not len(rows):
            continue
        part = split.take(rows)
        logits = load_logits(context.store, teacher, task, TRAIN, part.keys, part.texts)
        found = np.empty((len(split.keys), *logits.shape[1:]), logits.dtype) if found is None else found
        found[rows] = logits
    return found


def _start(run: Run, context: Context) -> tuple[Encoder, Any, dict[str, dict[str, torch.Tensor]]]:
    settings, pooling = context.config.encoder, str(run.spec["pooling"])
    if run.init_from:
        return load_encoder(context.store.run(run.init_from), pooling)
    tokenizer = new_tokenizer(context)
    if not settings.path:
        return from_sizes(settings.model_config, len(tokenizer), pooling), tokenizer, {}
    if settings._target_:
        encoder = from_target({"_target_": settings._target_, **settings.model_config}, pooling)
    else:
        encoder = from_path(settings.path, settings.revision, pooling)
    for note in encoder_notes(encoder, tokenizer):
        rank_zero_info(note)
    check_vocabulary(encoder, tokenizer, f"encoder {settings.path!r}")
    return encoder, tokenizer, {}


def _pretraining(run: Run, context: Context) -> Prepared:
    config = context.config
    settings = config.encoder.pretraining
    encoder, tokenizer, _ = _start(run, context)
    texts = context.pretraining_texts
    split = TaskSplit((texts,), np.zeros(len(texts)), hash_texts(texts))
    tokens = encode(split, tokenizer, config.data.max_length, Path(config.paths.cache))
    sampler = SizeProportionalSampler(1.0)
    data = ExamplesDataModule(
        {TASK: Examples(tokens, np.zeros(len(split.keys)))},
        sampler=sampler,
        batch_size=run.batch_size,
        seed=run.seed,
        num_workers=config.data.workers,
        transform=TokenMasker(tokenizer, settings.mlm_probability, run.seed),
    )
    module = MaskedModule(encoder, settings.learning_rate, run.seed)
    rows = sampler.stream({TASK: len(split.keys)}, run.steps, run.batch_size, run.seed).rows
    return Prepared(module, data, tokenizer, int(tokens.lengths[rows].sum()))


@raise_on_signal()
def backfill_predictions(run_id: str, requests: Sequence[PredictionRequest], context: Context) -> None:
    """Predict what a finished Run has not predicted yet, for example since it did not teach when it was trained.

    The Run may have another encoder, tokenizer, length and precision than this job's config.
    """
    hardware.prepare()
    spec = context.store.manifest(run_id)["spec"]
    config = deepcopy(context.config)
    config.data.max_length, config.trainer.precision = spec["max_length"], spec["precision"]
    config.data.truncation = spec.get("truncation", LONGEST_FIRST)
    context = replace(context, config=config)
    with context.together("complete", run_id, requests):
        encoder, tokenizer, kept = load_encoder(context.store.run(run_id), spec["pooling"])
        heads = _heads({request.head for request in requests}, encoder, kept, context.config)
        module = BamModule(model=MultiTaskModel(encoder, heads))
        _write_predictions(run_id, requests, context, Prepared(module, ExamplesDataModule({}), tokenizer, 0))


def _write_predictions(
    run_id: str, requests: Sequence[PredictionRequest], context: Context, prepared: Prepared
) -> None:
    trainer = make_trainer(context.config.trainer, context.output)
    tokenized = tokens_of(context, prepared.tokenizer)
    module = prepared.module
    assert isinstance(module, BamModule)

    def logits_of(split: TaskSplit, head: str) -> Any:
        return predictions.predict_logits(module, trainer, make_examples(split, tokenized(split)), head)

    predictions.write_predictions(run_id, requests, context, logits_of)
