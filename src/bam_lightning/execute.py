"""One Run from start to finish: the only place that builds objects from a config."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from bam_lightning import machine, metrics
from bam_lightning.artifacts import load_encoder, save_model
from bam_lightning.batching import Examples
from bam_lightning.callbacks import CHECKPOINT, Advance, Checkpoints
from bam_lightning.config import Config, StageKind
from bam_lightning.datamodule import MultiTaskData
from bam_lightning.encoders import Encoder, from_path, from_sizes, load_tokenizer
from bam_lightning.heads import Head
from bam_lightning.loggers import make_logger
from bam_lightning.module import BamModule
from bam_lightning.pretraining import MaskedModule, MaskedSteps, MaskedText, make_tokenizer
from bam_lightning.recipe import Run
from bam_lightning.sources import Rows, TaskRows, row_keys
from bam_lightning.store import Store, teacher_column, write_text
from bam_lightning.stream import SizePower, Stream
from bam_lightning.targets import build
from bam_lightning.tokens import encode


@dataclass(frozen=True)
class Context:
    """What every Run of a job shares: config, checked rows of each task, pretraining texts, store, output folder."""

    config: Config
    rows: Mapping[str, TaskRows]
    texts: list[str]
    store: Store
    output: Path
    listener: Callable[[int], None] = field(default=lambda step: None)


def execute(run: Run, context: Context) -> dict[str, Any]:
    """Train ``run``, score it on dev, keep it in the store and return its manifest.

    A Run that was stopped goes on from its last checkpoint. Needs the Runs named by ``run.needs`` finished.

    Raises:
        ValueError, OSError: for damaged files or missing teacher rows.
        RuntimeError: if the loss is no longer a number.
    """
    machine.prepare()
    torch.manual_seed(int(np.random.SeedSequence([run.seed, 4]).generate_state(1)[0]))
    make = _pretraining if run.kind is StageKind.pretrain else _finetuning
    module, data, tokenizer, tokens = make(run, context)
    building = context.store.building(run.id)
    seconds = _fit(run, context, module, data, building)
    scores = _score(run, context, module, data) if isinstance(module, BamModule) else {}
    heads = module.heads if isinstance(module, BamModule) else None
    save_model(building, module.encoder, heads, tokenizer)
    write_text(building / "history.json", json.dumps(module.record.history))
    manifest = {
        "id": run.id, "stage": run.stage, "kind": run.kind.value, "tasks": list(run.tasks), "seed": run.seed,
        "steps": run.steps, "examples": run.examples, "train_seconds": seconds,
        "examples_per_second": run.examples / seconds, "tokens_per_second": tokens / seconds,
        "metrics": scores, "teachers": dict(run.teachers), "start": run.start, "spec": dict(run.spec),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"), "machine": platform.platform(),
        "device": machine.device_name(context.config.trainer), "versions": machine.versions(),
    }
    context.store.publish(run.id, manifest)
    return manifest


def _fit(
    run: Run, context: Context, module: BamModule | MaskedModule, data: pl.LightningDataModule, building: Path
) -> float:
    settings = context.config.trainer
    checkpoints = Checkpoints(building, settings.checkpoint_minutes, settings.checkpoint_steps)
    logger = make_logger(run, context.config, context.output)
    trainer = _trainer(context, logger, [checkpoints, Advance(context.listener)], run.steps)
    saved = building / CHECKPOINT
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are made in under 1 ms
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        trainer.fit(module, datamodule=data, ckpt_path=saved if saved.is_file() else None, weights_only=True)
    if logger:
        logger.finalize("success")
    if trainer.global_step < run.steps:
        raise KeyboardInterrupt
    return checkpoints.seconds


def _trainer(context: Context, logger: Any, callbacks: list[pl.Callback], steps: int) -> pl.Trainer:
    settings = context.config.trainer
    return pl.Trainer(
        accelerator=settings.accelerator, devices=1, precision=machine.precision(settings),
        max_steps=steps, max_epochs=-1, logger=logger or False, callbacks=callbacks,
        log_every_n_steps=settings.log_every, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=context.output,
    )


def _finetuning(run: Run, context: Context) -> tuple[BamModule, MultiTaskData, Any, int]:
    config = context.config
    encoder, tokenizer, kept = _start(run, context)
    cache = Path(config.paths.cache)
    length = config.data.max_length
    tokenised = partial(encode, tokenizer=tokenizer, max_length=length, cache=cache)
    train, dev = {}, {}
    for task in run.tasks:
        rows = context.rows[task]
        train[task] = Examples(tokenised(rows.train), rows.train.labels, _column(run, context, task, rows.train))
        dev[task] = Examples(tokenised(rows.dev), rows.dev.labels)
    heads: dict[str, Head] = {}
    for task in run.tasks:
        settings = config.suite.tasks[task].head
        heads[task] = build(f"suite.tasks.{task}.head", {"width": encoder.width, **vars(settings)})
        own = {name.removeprefix(f"{task}."): v for name, v in kept.items() if name.startswith(f"{task}.")}
        if own:
            heads[task].load_state_dict(own)
    stream = _stream(run, config, {task: len(examples.labels) for task, examples in train.items()})
    data = MultiTaskData(train, dev, stream, tokenizer.pad_token_id, config.trainer.call_tokens, config.data.workers)
    assert run.hyper.learning_rate is not None and run.hyper.layerwise_decay is not None
    module = BamModule(
        encoder, heads, build("distillation.schedule", config.distillation.schedule), config.optimization,
        run.hyper.learning_rate, run.hyper.layerwise_decay, stream.weights, run.seed, config.trainer.log_every,
    )
    lengths = np.concatenate([[*examples.tokens.lengths] for examples in train.values()])
    return module, data, tokenizer, int(lengths[stream.rows[stream.rows >= 0]].sum())


def _stream(run: Run, config: Config, sizes: Mapping[str, int]) -> Stream:
    sampler = build("sampler", config.sampler) if len(sizes) > 1 else SizePower(1.0)
    stream: Stream = sampler.stream(sizes, run.steps, run.batch_size, run.seed)
    return stream


def _column(run: Run, context: Context, task: str, rows: Rows) -> Any:
    if task not in run.teachers:
        return None
    return teacher_column(context.store, run.teachers[task], task, rows.keys, rows.texts)


def _start(run: Run, context: Context) -> tuple[Encoder, Any, Mapping[str, torch.Tensor]]:
    settings = context.config.encoder
    if run.start:
        return load_encoder(context.store, run.start, settings.pooler)
    if settings.path:
        tokenizer = load_tokenizer(settings.path, settings.revision)
        return from_path(settings.path, settings.revision, settings.pooler), tokenizer, {}
    assert settings.pretraining is not None
    tokenizer = make_tokenizer(context.texts, settings.pretraining.vocabulary)
    return from_sizes(settings.sizes, len(tokenizer), settings.pooler), tokenizer, {}


def _pretraining(run: Run, context: Context) -> tuple[MaskedModule, MaskedText, Any, int]:
    config = context.config
    settings = config.encoder.pretraining
    assert settings is not None
    encoder, tokenizer, _ = _start(run, context)
    texts = (context.texts,)
    rows = Rows(texts, np.zeros(len(context.texts)), text_keys(context.texts))
    tokens = encode(rows, tokenizer, config.data.max_length, Path(config.paths.cache))
    stream = SizePower(1.0).stream({"text": len(rows.keys)}, run.steps, run.batch_size, run.seed)
    steps = MaskedSteps(tokens, stream.rows, tokenizer, settings.masked, run.seed)
    module = MaskedModule(encoder, settings.learning_rate, run.seed, config.trainer.log_every)
    return module, MaskedText(steps, config.data.workers), tokenizer, int(tokens.lengths[stream.rows].sum())


def text_keys(texts: list[str]) -> list[bytes]:
    """Return the content key of each unlabelled text."""
    from bam_lightning.data_config import TaskConfig

    return row_keys("", TaskConfig(), (texts,))


def _score(run: Run, context: Context, module: BamModule, data: MultiTaskData) -> dict[str, dict[str, float]]:
    """Predict dev, and for a teacher its own training rows; keep both in the store and return the dev scores."""
    results = {}
    for task, logits in _predict(context, module, data, data.predict).items():
        rows = context.rows[task].dev
        context.store.write_outputs(run.id, task, "dev", rows.keys, logits)
        predictions = module.heads[task].predict(torch.from_numpy(logits)).numpy()
        results[task] = metrics.scores(predictions, rows.labels, context.config.suite.tasks[task].metric.value)
    if run.teaches:
        for task, logits in _predict(context, module, data, data.train).items():
            context.store.write_outputs(run.id, task, "train", context.rows[task].train.keys, logits)
    return results


def _predict(
    context: Context, module: BamModule, data: MultiTaskData, examples: Mapping[str, Examples]
) -> dict[str, np.ndarray]:
    data.predict = examples
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        parts = _trainer(context, None, [], -1).predict(module, datamodule=data)
    found: dict[str, tuple[list, list]] = {}
    for part in parts or []:
        for block in part if isinstance(part, list) else [part]:
            for task, (index, logits) in block.items():
                found.setdefault(task, ([], []))[0].append(index.cpu().numpy())
                found[task][1].append(logits.float().cpu().numpy())
    ordered = {}
    for task, (index, logits) in found.items():
        order = np.argsort(np.concatenate(index), kind="stable")
        ordered[task] = np.concatenate(logits)[order]
    return ordered
