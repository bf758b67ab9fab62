"""The model in a process of its own, so that HTTP and the model do not compete for the interpreter lock."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType

from bam_lightning.config.exceptions import ServingError
from bam_lightning.inference.model_info import find_model, read_model_info
from bam_lightning.inference.serving.batcher import predict_batch
from bam_lightning.inference.serving.schemas import PredictRequest

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

    Attributes:
        info: The model's description.
        device: The device that the model computes on.
        precision: See ``Predictor``.
        gone: Whether the process has ended unexpectedly. This process is then sent SIGTERM, which stops the server.
    """

    def __init__(self, options: LoadOptions) -> None:
        self.info = read_model_info(find_model(options.run, options.store, options.revision))
        self.device, self.precision, self.gone = "", "", False
        context = multiprocessing.get_context("spawn")
        self._connection, self._child_connection = context.Pipe()
        self._process = context.Process(target=_work, args=(self._child_connection, options), name="model", daemon=True)

    def __enter__(self) -> Worker:
        self._process.start()
        self._child_connection.close()  # so that reading ends when the process does
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
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __call__(self, requests: Sequence[PredictRequest]) -> list[str]:
        """Return the response to each request; see ``predict_batch``. Call it from one thread only.

        Raises:
            RuntimeError: If the model failed.
            ServingError: If the process has ended.
        """
        try:
            self._connection.send(list(requests))
            received = self._connection.recv()
        except (EOFError, OSError) as error:
            if not self.gone:
                self.gone = True
                os.kill(os.getpid(), signal.SIGTERM)
            raise ServingError("the model's process has ended") from error
        if isinstance(received, Exception):
            raise received
        responses: list[str] = received
        return responses


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
            model.logits([("warm",) * len(task.text)], [task.name])
    except Exception as error:
        connection.send(ValueError(str(error)) if isinstance(error, ValueError) else RuntimeError(str(error)))
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
