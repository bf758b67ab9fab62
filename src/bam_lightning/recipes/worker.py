"""One rank of a job that ``processes.launch`` started: ``python -m bam_lightning.recipes.worker JOB.yaml OUTPUT``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bam_lightning.config.exceptions import BamError
from bam_lightning.config.signals import Stopped
from bam_lightning.recipes.job_file import read_job
from bam_lightning.recipes.processes import ERROR
from bam_lightning.store.atomic_io import atomic_write


def main() -> None:
    """Run the job; leave what rank 0 raised on purpose in a file for the process that started it."""
    from bam_lightning.recipes.runner import run_recipe
    from bam_lightning.training import distributed

    job, output = Path(sys.argv[1]), Path(sys.argv[2])
    config = read_job(job)
    try:
        run_recipe(config, output)
    except Stopped as stop:
        sys.exit(stop.status)
    except BamError as error:
        if distributed.rank() == 0:
            with atomic_write(output / ERROR) as path:
                path.write_text(json.dumps({"kind": type(error).__name__, "message": str(error)}))
        sys.exit(1)


if __name__ == "__main__":
    main()
