"""Training that waits where a test wants it: a schedule, since each optimizer step of every task asks it.

In the folder ``BAM_TEST_GATES`` the file ``hold-N`` holds the SLURM job of array index N, for seconds in each step;
``fail-N`` makes it raise. ``at-N`` says that it has come there. Without the folder it is the schedule of the paper."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bam_lightning.training import schedules

STEP_SECONDS = 3.0


class Linear(schedules.LinearAnnealing):
    def __call__(self, progress: float) -> float:
        gates, index = os.environ.get("BAM_TEST_GATES"), os.environ.get("SLURM_ARRAY_TASK_ID")
        if gates and index:
            if Path(gates, f"fail-{index}").exists():
                raise KeyError("nobody foresaw this")
            (Path(gates) / f"at-{index}").touch()
            end = time.monotonic() + STEP_SECONDS
            while Path(gates, f"hold-{index}").exists() and time.monotonic() < end:
                time.sleep(0.05)
        return super().__call__(progress)
