"""The model in a process of its own, so that HTTP and the model do not compete for the interpreter lock."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType

from bam_lightning.config.exceptions import BamError, ServingError
from bam_lightning.inference.model_info import find_model, read_model_info
from bam_lightning.inference.serving.batcher import predict_batch
from bam_lightning.inference.serving.schemas import PredictRequest

LOG = logging.getLogger(__name__)
END_SECONDS = 1.0  # time for the process to end by itself


@dataclass(frozen=True)
class LoadOptions:
    """Arguments of ``predictor.load``, and the number of CPU threads of the model."""

    run: str
    store: str
    device: str
    precision: str
    heads: tuple[str, ...]
    revision: str | None
    threads: int


class Worker:
    """The model's process. A context manager, inside which the model is loaded and answers.

    A process that ends is started again. If the model cannot be loaded again, ``gone`` is set and this process is sent
    SIGTERM, which stops the server.

    Args:
        options: What to load.
        stuck_seconds: A process that computes one batch for longer is killed.

    Attributes:
        info: The model's description.
        device: The device that the model computes on.
        precision: See ``Predictor``.
        gone: Whether the process has ended and could not be started again.
        restarts: How often it was started again.
        busy_since: ``time.monotonic()`` when the current batch began; ``None`` if it is idle.
    """

    def __init__(self, options: LoadOptions, stuck_seconds: float | None = None) -> None:
        self.info = read_model_info(find_model(options.run, options.store, options.revision))
        self.device, self.precision, self.gone, self.restarts = "", "", False, 0
        self.busy_since: float | None = None
        self._options, self._stuck_seconds = options, stuck_seconds
        self._loaded, self._closing = threading.Event(), False

    def __enter__(self) -> Worker:
        self._start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing = True
        if self._loaded.is_set():
            self._connection.close()
            self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and its process alive."""
        return self._loaded.is_set() and not self.gone and self._process.is_alive()

    def _start(self) -> None:
        """Start the process and wait until the model is loaded."""
        context = multiprocessing.get_context("spawn")
        self._connection, child_connection = context.Pipe()
        self._process = context.Process(target=_work, args=(child_connection, self._options), name="model", daemon=True)
        self._process.start()
        child_connection.close()  # so that reading ends when the process does
        try:
            ready = self._connection.recv()
        except KeyboardInterrupt:  # the process ignores signals
            self._process.kill()
            raise
        except EOFError:
            self._process.join()
            raise ServingError(
                f"the model's process ended while loading (exit code {self._process.exitcode})"
            ) from None
        if isinstance(ready, Exception):
            raise ready
        self.device, self.precision = ready
        self._loaded.set()

    def _watch(self) -> None:
        while True:
            wait([self._process.sentinel])
            self._loaded.clear()
            if self._closing:
                return
            self._process.join()
            LOG.error("the model's process ended (exit code %s); starting it again", self._process.exitcode)
            try:
                self._start()
            except Exception as error:
                if not self._closing:
                    LOG.error("the model cannot be loaded again: %s", error)
                    self.gone = True
                    self._loaded.set()
                    os.kill(os.getpid(), signal.SIGTERM)
                return
            self.restarts += 1

    def __call__(self, requests: Sequence[PredictRequest]) -> list[str]:
        """Return the response to each request; see ``predict_batch``. Call it from one thread only.

        Waits while the process is started again.

        Raises:
            RuntimeError: If the model failed.
            ServingError: If the process has ended.
        """
        self._loaded.wait()
        connection = self._connection
        self.busy_since = time.monotonic()
        try:
            connection.send(list(requests))
            if not connection.poll(self._stuck_seconds):
                LOG.error("the model has computed one batch for %g seconds; killing it", self._stuck_seconds)
                self._process.kill()
            received = connection.recv()
        except (EOFError, OSError) as error:
            if not self.gone and connection is self._connection:  # the watching thread may not have seen it yet
                self._loaded.clear()
            raise ServingError("the model's process has ended") from error
        finally:
            self.busy_since = None
        if isinstance(received, Exception):
            raise received
        responses: list[str] = received
        return responses


def _start_error(error: Exception) -> BamError:
    """Return an error that the command line prints as one line, and that can be sent to another process."""
    if isinstance(error, BamError):
        return error
    reason = " ".join(str(error).split())
    return ServingError(f"the model cannot be loaded, or cannot score an example row: {type(error).__name__}: {reason}")


def _work(connection: Connection, options: LoadOptions) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # the process ends when the server closes the connection
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError):
        _load_and_answer(connection, options)


def _load_and_answer(connection: Connection, options: LoadOptions) -> None:
    import torch

    from bam_lightning.inference.predictor import load

    torch.set_num_threads(options.threads)
    try:
        model = load(
            options.run, options.store, options.device, options.precision, options.heads, revision=options.revision
        )
        for task in model.tasks.values():  # the first pass is a hundred times slower
            model.predict([task.example_row()], task.name)
    except Exception as error:
        connection.send(_start_error(error))
        return
    gc.collect()
    gc.freeze()  # a full collection over torch's objects would stop every request for a quarter of a second
    connection.send((str(model.device), model.precision))
    while True:
        requests = connection.recv()
        try:
            responses = predict_batch(model, requests)
        except BaseException as error:  # a panic of a Rust extension is not an Exception, and must not end the process
            connection.send(RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            connection.send(responses)
