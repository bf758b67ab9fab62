"""Typed configuration of where and how a job runs: machine, bookkeeping, curves, folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from bam_lightning.config.data_config import MISSING
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import check_at_least, check_choice, check_positive


class LoggerKind(Enum):
    """Where training curves go, besides the Run's own history."""

    wandb = "wandb"
    csv = "csv"
    none = "none"


class Strategy(Enum):
    """How several processes share the work; see ``docs/scale.md``."""

    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"


class Precision(Enum):
    """Arithmetic of the training step; with bfloat16, master weights are float32."""

    auto = "auto"
    float64 = "float64"  # slow: shows whether a difference is rounding
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class TrainerConfig:
    """Machine and bookkeeping. ``precision``, ``max_steps`` and ``call_tokens`` change a Run's weights, and its id.

    ``call_tokens`` changes weights where an encoder has to pad, and the id always: that is known before the encoder is.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Strategy = Strategy.auto
    precision: Precision = Precision.auto
    compile: bool = False
    max_steps: int | None = None
    log_every: int = 10
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int | None = None
    call_tokens: int = 256
    progress: bool = True

    def check(self) -> None:
        """Raise ``ConfigError`` for a choice or a count out of range."""
        check_choice("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu"))
        for name in ("devices", "nodes", "log_every"):
            check_at_least(f"trainer.{name}", getattr(self, name), 1)
        for name in ("max_steps", "checkpoint_steps"):
            if getattr(self, name) is not None:
                check_at_least(f"trainer.{name}", getattr(self, name), 1)
        if self.compile and self.strategy is Strategy.fsdp:
            raise ConfigError(
                "trainer.compile=true and trainer.strategy=fsdp do not go together; leave one of them out"
            )
        check_positive("trainer.checkpoint_minutes", self.checkpoint_minutes)
        check_at_least("trainer.call_tokens", self.call_tokens, 0)


@dataclass
class LoggerConfig:
    """Where curves go: ``kind``; the rest is for W&B."""

    kind: LoggerKind = LoggerKind.csv
    project: str = "bam_lightning"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class PathsConfig:
    """Folders: finished Runs (``store``) and tokenised data (``cache``)."""

    store: str = MISSING
    cache: str = MISSING
