"""What ``test_processes`` runs under torchrun: fit, validate, teach, predict and save on every rank."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import ModelParallelStrategy
from tiny_tasks import QUIET, Memory, data_of, logits, module_of
from torch.distributed.tensor import DTensor

import bam_lightning as bam
from bam_lightning.data import collate

FITTED_STEPS = 30


def strategy_of(name: str) -> Any:
    """Return a strategy for two processes on a CPU."""
    if name != "fsdp2":
        return name
    return ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo", save_distributed_checkpoint=False
    )


def exercise(name: str, double: bool, encoder: Path, folder: Path) -> dict[str, Any]:
    """Train, score, teach, predict and save with one module; return what came of it.

    Args:
        name: ``auto``, ``ddp`` or ``fsdp2``.
        double: whether to compute in float64.
        encoder: folder of a pretrained encoder.
        folder: where to write.
    """
    collate.PREDICT_TOKENS = 60  # several batches of a few rows each
    data = data_of(encoder, folder / "cache")
    module = module_of(data)
    if double:
        module.double()
    memory = Memory()
    processes = 1 if name == "auto" else 2
    trainer = pl.Trainer(
        **{**QUIET, "max_epochs": -1, "logger": memory, "devices": processes},
        max_steps=FITTED_STEPS,
        log_every_n_steps=1,
        strategy=strategy_of(name),
    )
    trainer.fit(module, data)
    scores = trainer.validate(module, data, verbose=False)[0]
    data.teach("mood", module)
    ids = [
        torch.cat([part[task][0] for part in parts])
        for task, parts in zip(data.tasks, trainer.predict(module, data), strict=True)
    ]
    module.save_pretrained(folder / f"{name}-model")
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    return {
        "sharded": sum(isinstance(parameter, DTensor) for parameter in module.parameters()),
        "weights": module.full_state(),
        "losses": memory.column("train/loss/mood"),
        "norms": memory.column("train/gradient_norm"),
        "scores": scores,
        "rows": {task: sorted(rows.tolist()) for task, rows in zip(data.tasks, ids, strict=True)},
        "teacher": torch.from_numpy(data.train_examples()["mood"].teacher),
    }


def resume(encoder: Path, folder: Path) -> list[list[float]]:
    """Return the logged losses of a fit, and of one that resumes between two logs."""
    found = []
    for checkpoint in (None, folder / "resumed" / "middle.ckpt"):
        data, memory = data_of(encoder, folder / "cache"), Memory()
        keeper = ModelCheckpoint(folder / "resumed", filename="middle", every_n_train_steps=5)
        options = {"enable_checkpointing": True, "logger": memory, "max_steps": 8, "max_epochs": -1}
        trainer = pl.Trainer(**{**QUIET, **options}, callbacks=[keeper], log_every_n_steps=8, devices=2, strategy="ddp")
        trainer.fit(module_of(data), data, ckpt_path=checkpoint, weights_only=True)
        found.append(memory.column("train/loss/mood"))
    return found


def refuse_different_teachers(encoder: Path, folder: Path, rank: int) -> str:
    """Return the error of a fit in which every rank has a teacher of its own."""
    data = data_of(encoder, folder / "cache", taught=False)
    data.teach("mood", logits("mood", seed=rank))
    try:
        pl.Trainer(**QUIET, devices=2, strategy="ddp").fit(module_of(data), data)
    except bam.TrainingError as error:
        return str(error)
    return "no error"


def main() -> None:
    """Run everything; write a file of results per rank."""
    encoder, folder = map(Path, sys.argv[1:])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in ("ddp", "fsdp2"):
        for double in (True, False):
            results[f"{name} {'double' if double else 'single'}"] = exercise(name, double, encoder, folder)
    rank = torch.distributed.get_rank()
    results["resumed"] = resume(encoder, folder)
    results["error"] = refuse_different_teachers(encoder, folder, rank)
    torch.save(results, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    main()
