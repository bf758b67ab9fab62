"""bam_lightning: single-task teachers teach one multi-task student (Clark et al. 2019).

``__all__`` lists the public names. Each one is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bam_lightning.config.compose import compose as make_config
    from bam_lightning.config.exceptions import BamError, ConfigError, DataError, StoreError, TrainingError
    from bam_lightning.config.teacher_config import TeacherSource
    from bam_lightning.data.sampling import ReplicationSampler, Sampler, SizeProportionalSampler, TaskHomogeneousSampler
    from bam_lightning.data.task import Task
    from bam_lightning.inference.predictor import Prediction, Predictor, load
    from bam_lightning.models.heads import (
        BinaryHeads,
        ChoiceHead,
        ClassificationHead,
        Head,
        HLGaussHead,
        LabelHead,
        MultiLabelHead,
        OrdinalHead,
        RegressionHead,
        SANHead,
        SpanHead,
        TaggingHead,
    )
    from bam_lightning.models.multi_task import MultiTaskModel
    from bam_lightning.recipes.runner import run_recipe
    from bam_lightning.training.datamodule import MultiTaskDataModule
    from bam_lightning.training.module import BamModule
    from bam_lightning.training.optimizer import BertAdam
    from bam_lightning.training.schedules import ConstantAnnealing, LinearAnnealing, Schedule

__version__ = "0.2.0"
__all__ = [
    "BamError",
    "BamModule",
    "BertAdam",
    "BinaryHeads",
    "ChoiceHead",
    "ClassificationHead",
    "ConfigError",
    "ConstantAnnealing",
    "DataError",
    "HLGaussHead",
    "Head",
    "LabelHead",
    "LinearAnnealing",
    "MultiLabelHead",
    "MultiTaskDataModule",
    "MultiTaskModel",
    "OrdinalHead",
    "Prediction",
    "Predictor",
    "RegressionHead",
    "ReplicationSampler",
    "SANHead",
    "Sampler",
    "Schedule",
    "SizeProportionalSampler",
    "SpanHead",
    "StoreError",
    "TaggingHead",
    "Task",
    "TaskHomogeneousSampler",
    "TeacherSource",
    "TrainingError",
    "load",
    "make_config",
    "run_recipe",
]

_MODULES = {
    "config.compose": {"make_config": "compose"},
    "config.exceptions": ["BamError", "ConfigError", "DataError", "StoreError", "TrainingError"],
    "config.teacher_config": ["TeacherSource"],
    "data.sampling": ["ReplicationSampler", "Sampler", "SizeProportionalSampler", "TaskHomogeneousSampler"],
    "data.task": ["Task"],
    "inference.predictor": ["Prediction", "Predictor", "load"],
    "models.heads": [
        "BinaryHeads",
        "ChoiceHead",
        "ClassificationHead",
        "HLGaussHead",
        "Head",
        "LabelHead",
        "MultiLabelHead",
        "OrdinalHead",
        "RegressionHead",
        "SANHead",
        "SpanHead",
        "TaggingHead",
    ],
    "models.multi_task": ["MultiTaskModel"],
    "recipes.runner": ["run_recipe"],
    "training.datamodule": ["MultiTaskDataModule"],
    "training.module": ["BamModule"],
    "training.optimizer": ["BertAdam"],
    "training.schedules": ["ConstantAnnealing", "LinearAnnealing", "Schedule"],
}
_SOURCES = {
    name: (module, names[name] if isinstance(names, dict) else name)
    for module, names in _MODULES.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        from bam_lightning.config.renamed import renamed

        former = renamed(f"bam_lightning.{name}")
        raise AttributeError(f"module 'bam_lightning' has no attribute {name!r}{f'; {former}' if former else ''}")
    module, attribute = _SOURCES[name]
    return getattr(import_module(f"bam_lightning.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_SOURCES])
