"""Several processes for one job: rank 0 plans, locks and writes; all ranks train its Runs by Lightning's strategies.

Where neither torchrun nor srun started the job, torchrun's agent starts ``bam_lightning.recipes.worker`` here."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from bam_lightning.config import exceptions
from bam_lightning.config.exceptions import BamError, TrainingError
from bam_lightning.config.job_config import Config
from bam_lightning.config.signals import Stopped
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.job_file import save_job
from bam_lightning.store.run_spec import PredictionRequest, Run, run_from_json, to_json
from bam_lightning.store.run_store import Store
from bam_lightning.training import distributed

ERROR = "error.json"
TRAIN, BACKFILL, WAIT, DONE, FAILED = "train", "complete", "wait", "done", "failed"
COLLECTIVE = timedelta(minutes=30)  # longest wait of one rank for another
ALIVE_SECONDS = 60.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
KILLS = (-signal.SIGKILL, -signal.SIGSEGV)  # exit codes

Lead = Callable[..., dict[str, Any]]


class Orders:
    """Rank 0's line to the other ranks: what comes next is broadcast to them."""

    def __init__(self) -> None:
        self.sent = time.monotonic()

    def send(self, name: str, *what: Any) -> None:
        """Tell the other ranks what comes next, as JSON."""
        distributed.broadcast_json([name, to_json([asdict(part) if isinstance(part, Run) else part for part in what])])
        self.sent = time.monotonic()

    @contextmanager
    def together(self, name: str, *what: Any) -> Iterator[None]:
        """Give an order, and do the same within."""
        self.send(name, *what)
        yield

    def keep_alive(self) -> None:
        """Let the other ranks wait on, once a minute."""
        if time.monotonic() - self.sent > ALIVE_SECONDS:
            self.send(WAIT)


def lead_or_follow(config: Config, output: Path, lead: Lead) -> dict[str, Any]:
    """Do a job in all processes that torchrun or srun started; return rank 0's results on every rank.

    Args:
        config: of the job, the same on every rank.
        output: folder of the job.
        lead: what rank 0 does, with ``others`` as third argument.
    """
    from bam_lightning.training.trainer import check_devices

    check_devices(config.trainer)
    _join()
    if distributed.rank():
        return _follow(config, output)
    orders = Orders()
    try:
        results = lead(config, output, orders)
    except BaseException as error:
        with suppress(Exception):  # the others may be gone
            orders.send(FAILED, f"{error}")
        raise
    orders.send(DONE, results)
    return results


def _join() -> None:
    import torch
    import torch.distributed.nn  # imported later, its default arguments would hold the group for ever
    from torch import distributed as dist

    if dist.is_initialized():
        return
    if distributed.launcher() == "srun":
        from pytorch_lightning.plugins.environments import SLURMEnvironment

        environment = SLURMEnvironment(auto_requeue=False)
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        timeout=COLLECTIVE,
    )
    atexit.register(_leave)


def _leave() -> None:
    """End the group before the interpreter: a thread of gloo that lets a tensor go after it aborts the process."""
    from torch import distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(0.1)  # groups that caches of DTensor hold go on; here their threads can have Python's lock


def _follow(config: Config, output: Path) -> dict[str, Any]:
    """Train the same Runs as rank 0 until it says that the job is done."""
    from bam_lightning.recipes.fit import backfill_predictions, fit_run
    from bam_lightning.recipes.runner import load_data, scored_rows, test_rows

    context: Context | None = None
    while True:
        with _default_signals():  # a wait for rank 0 cannot be interrupted otherwise
            name, what = distributed.broadcast_json(None)
        if name == DONE:
            return dict(what[0])
        if name == FAILED:
            raise TrainingError(f"rank 0 has failed: {what[0]}")
        if name == WAIT:
            continue
        if context is None:
            rows, texts, _ = load_data(config)
            store = Store(config.paths.store, create=False)
            context = Context(config, rows, texts, store, output, tests=test_rows(config), scored=scored_rows(config))
        if name == TRAIN:
            fit_run(run_from_json(what[0]), context)
        else:
            run_id, requests = what
            requests = [
                PredictionRequest(task, head, split, fold and tuple(fold)) for task, head, split, fold in requests
            ]
            backfill_predictions(run_id, requests, context)


@contextmanager
def _default_signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch(config: Config, output: Path) -> dict[str, Any]:
    """Run a job in ``trainer.devices`` processes on this machine, started by torchrun's agent; return its results.

    Raises:
        Stopped: on a signal, after the ranks have saved.
        BamError: what rank 0 raised.
        TrainingError: if a rank ended otherwise, naming it; or outside the main thread.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    from bam_lightning.training.trainer import check_devices

    check_devices(config.trainer)
    if threading.current_thread() is not threading.main_thread():
        raise TrainingError(
            "trainer.devices above 1 outside the main thread: start the program with torchrun, "
            f"as in torchrun --nproc-per-node {config.trainer.devices} ..."
        )
    job = save_job(config, output)
    (output / ERROR).unlink(missing_ok=True)
    words = ["--standalone", "--nproc-per-node", str(config.trainer.devices), "-m", "bam_lightning.recipes.worker"]
    with _restored():
        threads = max(1, len(os.sched_getaffinity(0)) // config.trainer.devices)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        if sys.platform.startswith("linux"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        try:
            run(parse_args([*words, str(job), str(output)]))
        except SignalException as error:
            raise Stopped(int(error.sigval)) from None
        except ChildFailedError as error:
            raise _reason(error, output) from None
    results: dict[str, Any] = json.loads((output / "results.json").read_text())
    return results


def _reason(error: Any, output: Path) -> BaseException:
    # a rank that loses its peer fails or aborts too, at times before torchrun has seen that the peer was killed
    killed = {rank: failure for rank, failure in error.failures.items() if failure.exitcode in KILLS}
    rank, failure = min(killed.items()) if killed else error.get_first_failure()
    if (output / ERROR).is_file():
        told = json.loads((output / ERROR).read_text())
        return getattr(exceptions, told["kind"], BamError)(told["message"])
    code = failure.exitcode
    if code - 128 in SIGNALS:
        return Stopped(code - 128)
    if code < 0 or code > 128:  # a shell in between tells a signal as 128 and its number
        code = -code if code < 0 else code - 128
        return TrainingError(f"rank {rank} was ended by signal {code}; the same command goes on from the checkpoint")
    return TrainingError(f"rank {rank} ended with exit code {code}; its traceback is printed above")


@contextmanager
def _restored() -> Iterator[None]:
    """Restore signal handlers and the environment."""
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGHUP, signal.SIGQUIT)}
    environment = dict(os.environ)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.environ.clear()
        os.environ.update(environment)
