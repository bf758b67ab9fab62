"""Train a recipe from the command line: ``python -m bam_lightning.train +experiment=single_multi``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bam_lightning.config.compose import conf_dir, console, expand_word, register, to_config
from bam_lightning.config.hydra_errors import check_searchpath, format_error, is_user_error
from bam_lightning.config.job_config import Config


def job(config: Config) -> float | None:
    """Run the recipe of ``config`` and return the average dev score of its last stage, which sweepers maximize.

    Nothing heavy is imported before the config has been checked.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if config.check:
        from bam_lightning.recipes.check import check_recipe

        check_recipe(config, Path(hydra.runtime.output_dir))
        return None
    from bam_lightning.recipes.runner import run_recipe

    if hydra.mode is RunMode.MULTIRUN and config.logger.group is None:
        config.logger.group = Path(hydra.sweep.dir).name  # every sweep is one group
    averages = run_recipe(config, Path(hydra.runtime.output_dir))["average"]
    return list(averages.values())[-1] if averages else None


def run(job: Callable[[Config], Any]) -> int:
    """Run ``job`` on the command line's config under Hydra; return the exit status."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.types import RunMode

    from bam_lightning.recipes.multirun import Failures, guarded
    from hydra_plugins.bam_joblib import launcher as joblib_launcher
    from hydra_plugins.bam_slurm.launcher import SlurmLauncher

    register()
    sys.argv[1:] = [expand_word(word) for word in sys.argv[1:]]
    Plugins.instance().register(SlurmLauncher)  # Hydra's own search does not see into an editable installation
    joblib_launcher.register()
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole; `console` decides how they read

    errors: list[Exception] = []

    def keep_error(tree: Any) -> Any:
        """Run the job; keep the error of a single job that a user caused, which Hydra would announce in its words."""
        try:
            return job(to_config(tree))
        except Exception as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN or not is_user_error(error):
                raise
            errors.append(error)

    def main() -> int:
        check_searchpath(sys.argv[1:])
        task = guarded(keep_error, is_user_error, format_error)
        hydra.main(config_path=str(conf_dir()), config_name="train", version_base="1.3")(task)()
        for error in errors:
            raise error
        return 1 if Failures.count else 0

    try:
        return console(main, full)
    finally:
        os.environ["HYDRA_FULL_ERROR"] = "1" if full else "0"


def main() -> None:
    """Entry point."""
    # Threads that wait for each other spin, by default so long that small steps take ten times longer on a
    # machine that has other work; a short spin costs nothing on a quiet one
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    gc.freeze()  # the garbage collector need not scan what is imported so far
    status = run(job)
    gc.freeze()  # else the interpreter looks for garbage in all modules before it ends, which takes a second
    sys.exit(status)


if __name__ == "__main__":
    main()
