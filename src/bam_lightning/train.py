"""Train a recipe from the command line: ``python -m bam_lightning.train +experiment=single_multi``."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from bam_lightning.compose import run
from bam_lightning.config import Config


def job(config: Config) -> None:
    """Run the recipe of ``config``; nothing heavy is imported before the config has been checked."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from bam_lightning.job import run_recipe

    hydra = HydraConfig.get()
    if hydra.mode is RunMode.MULTIRUN and config.logger.group is None:
        config.logger.group = Path(hydra.sweep.dir).name  # every sweep is one group
    run_recipe(config, Path(hydra.runtime.output_dir))


def attended() -> bool:
    """Take part as one of the processes that srun or torchrun started; return whether it was not as the first."""
    from bam_lightning.place import here

    place = here()
    if not place.external:
        return False
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a lost connection is pages of C++ frames
    from bam_lightning.follow import attend

    return attend(place)


def main() -> None:
    """Entry point."""
    # Threads that wait for each other spin, by default so long that small steps take ten times longer on a
    # machine that has other work; a short spin costs nothing on a quiet one
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if attended():
        return
    gc.freeze()  # see ``company``
    status = run(job, attended)
    gc.freeze()  # else the interpreter looks for garbage in all modules before it ends, which takes a second
    sys.exit(status)


if __name__ == "__main__":
    main()
