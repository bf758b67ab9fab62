"""Typed configuration of where and how a job runs: machine, bookkeeping, curves, folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from bam_lightning.config.data_config import MISSING
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.renamed import renamed
from bam_lightning.config.validation import check_at_least, check_choice, check_positive


class LoggerKind(Enum):
    """Where training curves go, besides the Run's own history."""

    wandb = "wandb"
    csv = "csv"
    none = "none"


# what a recipe decides for each Run: its steps, its checkpoints, what it shows
RESERVED_FLAGS = {"max_epochs", "enable_checkpointing", "logger", "callbacks", "default_root_dir"}
PRECISIONS = ("auto", "bf16-mixed", "16-mixed", "32-true", "64-true")


@dataclass
class TrainerConfig:
    """Options of Lightning's Trainer. In YAML it is a free mapping: any other flag goes to ``extra``.

    ``precision`` and ``max_steps`` change a Run's weights and its id, and so does every flag in ``extra``.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    max_steps: int | None = None
    log_every_n_steps: int = 10
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainerConfig:
        """Return the options of a mapping.

        Raises:
            ConfigError: for a value of the wrong type.
        """
        known = {entry.name: entry for entry in fields(cls) if entry.name != "extra"}
        for name, value in values.items():
            if name not in known:
                continue
            whole = name in ("devices", "num_nodes", "log_every_n_steps", "max_steps")
            optional = value is None and name == "max_steps"
            if not optional and type(value) is not (int if whole else str):
                wanted = "a whole number" if whole else "a word"
                raise ConfigError(f"trainer.{name} must be {wanted}, got {value!r}")
        extra = {name: value for name, value in values.items() if name not in known}
        for name in extra:
            if former := renamed(f"trainer.{name}"):
                raise ConfigError(former)
        return cls(**{name: value for name, value in values.items() if name in known}, extra=extra)

    def to_mapping(self) -> dict[str, Any]:
        """Return what ``from_mapping`` takes."""
        return {**{k: v for k, v in vars(self).items() if k != "extra"}, **self.extra}

    def check(self) -> None:
        """Raise ``ConfigError`` for a choice or a count out of range."""
        check_choice("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu"))
        check_choice("trainer.strategy", self.strategy, ("auto", "ddp", "fsdp"))
        check_choice("trainer.precision", self.precision, PRECISIONS)
        if self.strategy == "fsdp" and self.precision == "64-true":
            raise ConfigError("trainer.strategy=fsdp does not go with trainer.precision=64-true; use 32-true, or ddp")
        for name in ("devices", "num_nodes", "log_every_n_steps"):
            check_at_least(f"trainer.{name}", getattr(self, name), 1)
        if self.max_steps is not None:
            check_at_least("trainer.max_steps", self.max_steps, 1)
        for name in RESERVED_FLAGS & self.extra.keys():
            raise ConfigError(f"trainer.{name} is set by the recipe; leave it out")


@dataclass
class RunConfig:
    """How each Run is trained and kept, beside what Lightning's Trainer decides.

    ``call_tokens`` changes weights where an encoder has to pad, and the id always: that is known before the encoder is.
    """

    compile: bool = False
    kernels: bool = True
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int | None = None
    validations: int = 4
    call_tokens: int = 256
    progress: bool = True

    def check(self) -> None:
        """Raise ``ConfigError`` for a count out of range."""
        if self.checkpoint_steps is not None:
            check_at_least("run.checkpoint_steps", self.checkpoint_steps, 1)
        check_positive("run.checkpoint_minutes", self.checkpoint_minutes)
        check_at_least("run.validations", self.validations, 0)
        check_at_least("run.call_tokens", self.call_tokens, 0)


@dataclass
class LoggerConfig:
    """Where curves go: ``kind``, and other Lightning loggers by ``_target_`` in ``also``; the rest is for W&B."""

    kind: LoggerKind = LoggerKind.csv  # csv, wandb or none; scale=small, base and paper set wandb
    project: str = "bam_lightning"  # of W&B
    entity: str | None = None  # user or team of W&B; null: the default one
    group: str | None = None
    tags: list[str] = field(default_factory=list)  # of W&B
    also: dict[str, Any] = field(default_factory=dict)  # name -> another Lightning logger by _target_


@dataclass
class PathsConfig:
    """Folders: finished Runs (``store``) and tokenised data (``cache``)."""

    store: str = MISSING
    cache: str = MISSING
