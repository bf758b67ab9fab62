"""One job, several processes: which of them leads, and when it needs the others. Free of torch until it does."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bam_lightning.config.job_config import Config
from bam_lightning.recipes.context import Context
from bam_lightning.store.run_spec import Run
from bam_lightning.training.place import check, here


def led(config: Config, lead: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``lead`` does in the first process of a job; the others, where they are there already, follow.

    Raises:
        ValueError: if there are other processes than ``trainer.devices`` and ``trainer.nodes`` say.
    """
    place = here()
    check(config.trainer, place)
    if not place.external:
        return lead()
    from bam_lightning.recipes.follow import DONE, connect, follow

    group = connect(place)
    if place.rank:
        return dict(follow(group, one=True))
    found = lead()
    group.order(DONE, found)
    return found


@contextmanager
def _uncollected() -> Iterator[None]:
    """Import without the garbage collector, which would go through all modules again and again: 1 s of 4.

    In a process that has frozen what it is made of, as the command line does, it goes through them never.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count():
            gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def others(context: Context, runs: Sequence[Run]) -> Iterator[Context]:
    """Give the context the processes that train with this one, while there is something to train.

    Raises:
        ValueError: for what would stop a Run later.
    """
    if all(context.store.finished(run.id) for run in runs):
        yield context
        return
    with _uncollected():
        from bam_lightning.recipes.fit import check_trainable as check_execution

    check_execution(context.config)
    if context.config.trainer.devices * context.config.trainer.nodes == 1:
        yield context
        return
    from bam_lightning.recipes.follow import lead

    with lead(context, here()) as context:
        yield context
