"""A model in a process of its own: HTTP and the model would else wait for each other's turn at the interpreter."""

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
from bam_lightning.inference.serving.batcher import answer
from bam_lightning.inference.serving.requests import PredictRequest

SECONDS_TO_END = 10.0


@dataclass(frozen=True)
class Loading:
    """How the model is loaded, see ``model.load``; ``threads`` are the cores that it computes on, on a CPU."""

    run: str
    store: str
    device: str
    precision: str
    heads: tuple[str, ...]
    revision: str | None
    threads: int


class Worker:
    """The process; a context, in which it is loaded and answers.

    Attributes:
        saved: what the model says of itself.
        device: where it computes.
        precision: see ``model.Model``.
        gone: whether the process ended by itself; this one is then asked to stop (SIGTERM).
    """

    def __init__(self, loading: Loading) -> None:
        self.saved = read_model_info(find_model(loading.run, loading.store, loading.revision))
        self.device, self.precision, self.gone = "", "", False
        context = multiprocessing.get_context("spawn")
        self._line, self._theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(self._theirs, loading), name="model", daemon=True)

    def __enter__(self) -> Worker:
        self._process.start()
        self._theirs.close()  # so that the line ends when the process does
        try:
            ready = self._line.recv()
        except KeyboardInterrupt:  # else it would be waited for, and it hears no signal
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
        self._line.close()
        self._process.join(SECONDS_TO_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __call__(self, questions: Sequence[PredictRequest]) -> list[str]:
        """Return the answer to each question, see ``batcher.answer``; of one thread.

        Raises:
            ServingError: what went wrong there, or that the process is gone.
        """
        try:
            self._line.send(list(questions))
            found = self._line.recv()
        except (EOFError, OSError) as error:
            if not self.gone:
                self.gone = True
                os.kill(os.getpid(), signal.SIGTERM)
            raise ServingError("the model's process is gone") from error
        if isinstance(found, Exception):
            raise found
        answers: list[str] = found
        return answers


def _work(line: Connection, loading: Loading) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # the end of the line ends it, when all is answered
        signal.signal(number, signal.SIG_IGN)
    import torch

    from bam_lightning.inference.predictor import load

    torch.set_num_threads(loading.threads)
    try:
        model = load(
            loading.run, loading.store, loading.device, loading.precision, loading.heads, revision=loading.revision
        )
        for task in model.tasks.values():  # the first pass is a hundred times slower
            model.logits([("warm",) * len(task.columns)], [task.name])
    except Exception as error:
        line.send(ValueError(str(error)) if isinstance(error, ValueError) else RuntimeError(str(error)))
        return
    gc.collect()
    gc.freeze()  # a collection that walks all of torch stops every request for a quarter of a second
    line.send((str(model.device), model.precision))
    with suppress(EOFError, BrokenPipeError):
        while True:
            questions = line.recv()
            try:
                line.send(answer(model, questions))
            except Exception as error:
                line.send(RuntimeError(f"{type(error).__name__}: {error}"))
