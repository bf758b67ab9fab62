"""One side of one benchmark, in a process of its own: ``run_side.py SIDE [WORDS]``; prints JSON as its last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CACHE = Path.home() / ".cache" / "bam_lightning" / "bench"


def main(side: str, *words: str) -> None:
    """Run the side and print what it found."""
    if side in ("recipe", "sweep", "pipelines", "first_step", "full_glue"):
        import jobs

        found = getattr(jobs, side)(CACHE, *words)
    elif side == "predict":
        import predict

        found = predict.predict(CACHE, *words)
    elif side == "deploy":
        import deploy

        found = deploy.run(*words)
    elif side == "gpu":
        import gpu

        found = gpu.run(*words)
    elif side == "tasknet":
        from bam_lightning.config.trainer_config import TrainerConfig
        from bam_lightning.models import hardware

        script = str(Path(__file__).with_name("tasknet_side.py"))
        command = [os.environ["BAM_TASKNET_PYTHON"], script, *words, hardware.precision(TrainerConfig())]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    else:
        found = _training(side, *words)
    print(json.dumps(found))


def _training(side: str, tasks: str, batch: str, steps: str, share: str = "1") -> dict[str, float]:
    import workload

    data, encoder = (os.environ.get(name, "") for name in ("BAM_GLUE_DIR", "BAM_ENCODER_DIR"))
    work = workload.make(tasks.split(","), int(batch), int(steps), data, encoder, str(CACHE), int(share))
    if side in ("random", "group_by_length"):
        import peer

        return peer.train(work, side)
    import sides

    found: dict[str, float] = getattr(sides, side)(work)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
