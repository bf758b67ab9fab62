"""Train a recipe from the command line: ``python -m bam_lightning.train +experiment=single_multi``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bam_lightning.compose import run
from bam_lightning.config import Config


def job(config: Config) -> None:
    """Run the recipe of ``config``; nothing heavy is imported before the config has been checked."""
    from hydra.core.hydra_config import HydraConfig

    from bam_lightning.job import run_recipe

    run_recipe(config, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Entry point."""
    # Threads that spin while they wait make small steps ten times slower when the machine has other work
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(job))


if __name__ == "__main__":
    main()
