"""The whole configuration of a job as a file in its output folder, which ranks and later commands read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bam_lightning.config.job_config import Config
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.run_spec import to_json

JOB = "job.yaml"


def save_job(config: Config, output: Path) -> Path:
    """Write the configuration to ``output/job.yaml``; return its path."""
    from omegaconf import OmegaConf

    output.mkdir(parents=True, exist_ok=True)
    write_text(output / JOB, OmegaConf.to_yaml(to_plain_tree(config)))
    return output / JOB


def to_plain_tree(config: Config) -> Any:
    """Return a configuration as OmegaConf's tree of plain values."""
    from omegaconf import OmegaConf

    return OmegaConf.create(to_json({**asdict(config), "trainer": config.trainer.to_mapping()}))


def read_job(path: Path) -> Config:
    """Return the configuration in a file that ``save_job`` wrote."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path)))
    assert isinstance(config, Config)
    return config
