"""One Run from start to finish: the only place that builds objects from a config."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.job_config import Config, StageKind
from bam_lightning.config.signals import SignalListener, raise_on_signal
from bam_lightning.config.trainer_config import Precision, Strategy
from bam_lightning.data.collate import ONE_CALL, Examples
from bam_lightning.data.examples import TaskSplit, hash_texts
from bam_lightning.data.sampling import SizeProportionalSampler, Stream
from bam_lightning.data.tokenization import Tokens, encode
from bam_lightning.models.encoder import Encoder, check_length, check_vocabulary, from_path, from_sizes, load_tokenizer
from bam_lightning.models.heads import Head
from bam_lightning.models.saving import load_encoder, save_model
from bam_lightning.recipes import predictions
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.manifest import make_manifest
from bam_lightning.recipes.planner import required_predictions
from bam_lightning.store.atomic_io import translate_os_errors, write_text
from bam_lightning.store.run_spec import TRAIN, PredictionRequest, Run
from bam_lightning.store.run_store import load_logits
from bam_lightning.training import distributed, hardware
from bam_lightning.training.callbacks import Advance, Checkpoints, SameStart, last_checkpoint
from bam_lightning.training.datamodule import MultiTaskData
from bam_lightning.training.loggers import finish, log_end, make_logger
from bam_lightning.training.masked_lm import MaskedModule, MaskedSteps, MaskedText, make_tokenizer
from bam_lightning.training.module import BamModule
from bam_lightning.training.schedules import LinearAnnealing


def check_trainable(config: Config) -> None:
    """Raise ``BamError`` for what would stop a Run later: no such device, a head that cannot be built."""
    hardware.check_devices(config.trainer)
    for name, task in config.suite.trained().items():
        instantiate(f"suite.tasks.{name}.head", {"width": 8, **vars(task.head)})


@raise_on_signal()
def fit_run(run: Run, context: Context) -> dict[str, Any]:
    """Train ``run``, score it on dev, keep it in the store and return its manifest.

    A Run that was stopped resumes from its last checkpoint. All ``run.dependencies`` must be finished. In a
    multi-process job only rank 0 writes and returns the manifest.

    Raises:
        Stopped: on Ctrl-C and the other signals of `stopping`; in training with a checkpoint.
        ValueError, OSError: for damaged files or missing teacher rows.
        RuntimeError: if the loss is no longer a number.
    """
    hardware.prepare()
    torch.manual_seed(int(np.random.SeedSequence([run.seed, 4]).generate_state(1)[0]))
    make = _pretraining if run.kind is StageKind.pretrain else _finetuning
    module, data, tokenizer, tokens = make(run, context)
    building = context.store.staging_dir(run.id)
    first = distributed.rank() == 0
    logger = make_logger(run, context.config, context.output) if first else None
    scores, heads = {}, module.heads if isinstance(module, BamModule) else None
    with context.together("train", run):
        seconds = _fit(run, context, module, data, building, logger)
        if isinstance(module, BamModule) and isinstance(data, MultiTaskData):
            if first:
                context.store.delete_predictions(run.id)
            _write_outputs(run.id, required_predictions(run, context.config), context, module, data, tokenizer)
    if not first:
        return {}
    if heads is not None:
        scores = predictions.score_run(run, context)
    with translate_os_errors(building):
        save_model(building, module.encoder, heads, tokenizer)
    write_text(building / "history.json", json.dumps(module.record.history))
    manifest = make_manifest(run, context.config, seconds, tokens, scores)
    if logger:
        log_end(logger, manifest)
        finish(logger)
    context.store.commit(run.id, manifest)
    return manifest


def _fit(
    run: Run,
    context: Context,
    module: BamModule | MaskedModule,
    data: pl.LightningDataModule,
    building: Path,
    logger: Any,
) -> float:
    settings, stop = context.config.trainer, SignalListener()
    first = distributed.rank() == 0  # the others save nothing, and no signal stops them
    often = (settings.checkpoint_minutes, settings.checkpoint_steps) if first else (math.inf, None)
    checkpoints = Checkpoints(building, *often, stop)
    callbacks = [SameStart(), checkpoints, Advance(context.listener)]
    trainer = hardware.trainer(settings, context.output, run.steps, logger, callbacks)
    saved = last_checkpoint(building)
    if hardware.precision(settings) == "64-true":
        module.double()  # before a checkpoint's weights come: Lightning would do so after, when they are rounded
    with warnings.catch_warnings(), stop:
        warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are made in under 1 ms
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        trainer.fit(module, datamodule=data, ckpt_path=saved, weights_only=True)
    assert trainer.global_step == run.steps
    return checkpoints.seconds


def _finetuning(run: Run, context: Context) -> tuple[BamModule, MultiTaskData, Any, int]:
    config = context.config
    encoder, tokenizer, kept = _start(run, context)
    check_length(encoder, config.data.max_length, "data.max_length")
    if config.trainer.compile:
        encoder.compile_layers()
    tokenised = _tokenised(context, tokenizer)
    train = {}
    for task in run.tasks:
        rows = context.rows[task].train
        train[task] = Examples(tokenised(rows), rows.labels, _column(run, context, task, rows))
    heads = _heads(run.tasks, encoder, kept, config)
    stream = _stream(run, config, {task: len(examples.labels) for task, examples in train.items()})
    sharded = config.trainer.strategy is Strategy.fsdp and distributed.processes() > 1
    # without padding one call is best; so it is with layers that are put together for each call
    whole = sharded or (encoder.packs and hardware.packs(config.trainer))
    call_tokens = ONE_CALL if whole else config.trainer.call_tokens
    data = MultiTaskData(train, {}, stream, tokenizer.pad_token_id, call_tokens, config.data.workers)
    assert run.hyper.learning_rate is not None
    assert run.hyper.layerwise_decay is not None
    module = BamModule(
        encoder,
        heads,
        instantiate("distillation.schedule", config.distillation.schedule),
        config.optimization,
        run.hyper.learning_rate,
        run.hyper.layerwise_decay,
        stream.weights,
        run.seed,
        config.trainer.log_every,
        sharded,
    )
    lengths = np.concatenate([examples.tokens.lengths for examples in train.values()])
    return module, data, tokenizer, int(lengths[stream.rows[stream.rows >= 0]].sum())


def _tokenised(context: Context, tokenizer: Any) -> Callable[[TaskSplit], Tokens]:
    cache = Path(context.config.paths.cache)
    return partial(encode, tokenizer=tokenizer, max_length=context.config.data.max_length, cache=cache)


def _heads(
    tasks: Iterable[str], encoder: Encoder, kept: Mapping[str, dict[str, torch.Tensor]], config: Config
) -> dict[str, Head]:
    """Return a head per task, with the weights ``kept`` from an earlier Run where it had that head."""
    heads: dict[str, Head] = {}
    for task in tasks:
        settings = vars(config.suite.tasks[task].head)
        heads[task] = instantiate(f"suite.tasks.{task}.head", {"width": encoder.width, **settings})
        if task in kept:
            heads[task].load_state_dict(kept[task])
    return heads


def _stream(run: Run, config: Config, sizes: Mapping[str, int]) -> Stream:
    sampler = instantiate("sampler", config.sampler) if len(sizes) > 1 else SizeProportionalSampler(1.0)
    stream: Stream = sampler.stream(sizes, run.steps, run.batch_size, run.seed)
    return stream


def _column(run: Run, context: Context, task: str, rows: TaskSplit) -> Any:
    """Return the teacher's logits ``[N, K]``, those of an ensemble of k ``[N, k, K]``, or ``None``."""
    columns = [
        load_logits(context.store, teacher, task, TRAIN, rows.keys, rows.texts)
        for teacher in run.teachers.get(task, ())
    ]
    if len(columns) > 1:
        return np.stack(columns, axis=1)
    return columns[0] if columns else None


def _start(run: Run, context: Context) -> tuple[Encoder, Any, dict[str, dict[str, torch.Tensor]]]:
    settings = context.config.encoder
    if run.start:
        return load_encoder(context.store.run(run.start), settings.pooler)
    if settings.path:
        tokenizer = load_tokenizer(settings.path, settings.revision)
        encoder = from_path(settings.path, settings.revision, settings.pooler)
        check_vocabulary(encoder, tokenizer, f"encoder {settings.path!r}")
        return encoder, tokenizer, {}
    tokenizer = make_tokenizer(context.texts, settings.pretraining.vocabulary)
    return from_sizes(settings.sizes, len(tokenizer), settings.pooler), tokenizer, {}


def _pretraining(run: Run, context: Context) -> tuple[MaskedModule, MaskedText, Any, int]:
    config = context.config
    settings = config.encoder.pretraining
    encoder, tokenizer, _ = _start(run, context)
    texts = (context.texts,)
    rows = TaskSplit(texts, np.zeros(len(context.texts)), hash_texts(context.texts))
    tokens = encode(rows, tokenizer, config.data.max_length, Path(config.paths.cache))
    stream = SizeProportionalSampler(1.0).stream({"text": len(rows.keys)}, run.steps, run.batch_size, run.seed)
    steps = MaskedSteps(tokens, stream.rows, tokenizer, settings.masked, run.seed)
    module = MaskedModule(encoder, settings.learning_rate, run.seed, config.trainer.log_every)
    return module, MaskedText(steps, config.data.workers), tokenizer, int(tokens.lengths[stream.rows].sum())


@raise_on_signal()
def backfill_predictions(run_id: str, every: Sequence[PredictionRequest], context: Context) -> None:
    """Predict what a finished Run has not predicted yet: it did not teach when it was trained, say.

    The Run may have another encoder, tokenizer, length and precision than this job's config.
    """
    hardware.prepare()
    spec = context.store.manifest(run_id)["spec"]
    config = deepcopy(context.config)
    config.data.max_length, config.trainer.precision = spec["max_length"], Precision(spec["precision"])
    context = replace(context, config=config)
    encoder, tokenizer, kept = load_encoder(context.store.run(run_id), spec["pooler"])
    module = BamModule(
        encoder,
        _heads({one.head for one in every}, encoder, kept, context.config),
        LinearAnnealing(),
        context.config.optimization,
        learning_rate=0.0,
        layerwise_decay=1.0,
    )
    data = MultiTaskData({}, {}, Stream(np.empty((0, 0), np.int32), {}), tokenizer.pad_token_id, 0)
    with context.together("complete", run_id, every):
        _write_outputs(run_id, every, context, module, data, tokenizer)


def _write_outputs(
    run_id: str,
    every: Sequence[PredictionRequest],
    context: Context,
    module: BamModule,
    data: MultiTaskData,
    tokenizer: Any,
) -> None:
    trainer = hardware.trainer(context.config.trainer, context.output)
    tokenised = _tokenised(context, tokenizer)

    def logits_of(rows: TaskSplit, head: str) -> np.ndarray:
        return predictions.predict_logits(module, trainer, data, Examples(tokenised(rows), rows.labels), head)

    predictions.write_predictions(run_id, every, context, logits_of)
