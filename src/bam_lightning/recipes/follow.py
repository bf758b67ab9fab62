"""What a process does that is not the first of its job: the same work on its share of each step, and no writing.

``python -m bam_lightning.recipes.follow`` is how the first one starts it; srun and torchrun start all alike."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from bam_lightning.config.exceptions import TrainingError
from bam_lightning.config.signals import ignore_signals
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.fit import backfill_predictions, fit_run
from bam_lightning.recipes.group import Ended, Group, connect, start
from bam_lightning.store.run_store import Store
from bam_lightning.training.place import Place, here

JOB, TRAIN, COMPLETE, DONE = "job", "train", "complete", "done"


@contextmanager
def lead(context: Context, place: Place) -> Iterator[Context]:
    """Give the context the other processes of its job; those that are started here are ended after it."""
    group = connect(place) if place.external else start(context.config.trainer.devices)
    try:
        yield brief(group, context)
    except BaseException:
        if group.whole and place.external:  # the first process alone has failed, and may have another job
            raise
        group.abandon()
        raise
    if not place.external:
        group.end()


def brief(group: Group, context: Context) -> Context:
    """Tell the others what the Runs of a job share, and return it with them in it."""
    told = replace(context, store=None, listener=None)  # type: ignore[arg-type]
    with group.together(JOB, told, context.store.root):
        pass
    return replace(context, others=group)


def follow(group: Group, one: bool = False) -> Any:
    """Do what the first process orders until it ends; return the results of a job where ``one`` is all there is.

    Signals are the first one's business: where it stops, this process is sent home.
    """
    ignore_signals()
    context: Context | None = None
    try:
        while True:
            name, what = group.next()
            if name == JOB:
                context = replace(what[0], store=Store(what[1], create=False), listener=lambda step: None)
            elif name == DONE and one:
                return what[0]
            elif name != DONE:
                assert context is not None
                work: Callable[..., Any] = fit_run if name == TRAIN else backfill_predictions
                work(*what, context)
    except Ended:
        group.leave()
        if one:
            raise TrainingError("the first process has ended before the job was done") from None
        return None
    except BaseException as error:
        group.fail(error, _text(error))
        raise


def _text(error: BaseException) -> str:
    known = isinstance(error, (ValueError, OSError)) or type(error) is RuntimeError
    return str(error) if known and str(error) else f"{type(error).__name__}: {error}"


def attend(place: Place) -> bool:
    """Take part in the group that srun or torchrun started; return whether this is not the first process of it."""
    group = connect(place)
    if place.rank:
        _quietly(group)
    return place.rank > 0


def _quietly(group: Group) -> None:
    """Follow; what the first process will say of a failure is not said here again."""
    warnings.simplefilter("ignore")
    try:
        follow(group)
    except BaseException as error:
        if not isinstance(error, (ValueError, OSError, RuntimeError)):
            traceback.print_exc()
        sys.exit(1)


def main() -> None:
    """Entry point."""
    ignore_signals()
    _quietly(connect(here()))


if __name__ == "__main__":
    main()
