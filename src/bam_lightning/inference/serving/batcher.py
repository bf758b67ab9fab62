"""Questions of many clients, answered together: one thread owns the model and takes what waits, as it comes.

Nothing waits for company: an idle model answers a lone question at once; what arrives meanwhile is the next batch."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from bam_lightning.inference.serving.requests import PredictRequest

if TYPE_CHECKING:
    from bam_lightning.inference.predictor import Predictor


def answer(model: Predictor, questions: Sequence[PredictRequest]) -> list[str]:
    """Return the answer to each question, as JSON: task -> what ``Model.predict`` says of its rows.

    All share one pass of the encoder, each row once, whatever their tasks.
    """
    rows = [row for one in questions for row in one.rows]
    owner = [number for number, one in enumerate(questions) for _ in one.rows]
    tasks = list(dict.fromkeys(task for one in questions for task in one.tasks))
    logits = model.logits(rows, tasks)
    found: list[dict[str, list[Any]]] = [{task: [] for task in one.tasks} for one in questions]
    for task in tasks:
        places = [place for place, number in enumerate(owner) if task in found[number]]
        for place, said in zip(places, model.say(task, logits[task][places]), strict=True):
            found[owner[place]][task].append(said._asdict())
    return [json.dumps({"predictions": one}, separators=(",", ":"), allow_nan=False) for one in found]


class Full(Exception):
    """No room for another question: ask again in a moment."""


class Closed(Exception):
    """The server is being stopped."""


class _Asked(NamedTuple):
    question: PredictRequest
    future: asyncio.Future[str]


class Batcher:
    """A bounded queue of questions and the thread that answers them; a context, left when all are answered.

    Args:
        answers: from questions to answers, in order; only the thread calls it.
        batch: rows that are computed together, unless one question has more.
        queue: rows that may wait.
    """

    def __init__(self, answers: Callable[[Sequence[PredictRequest]], list[str]], batch: int, queue: int) -> None:
        self._answers, self._batch, self._queue = answers, batch, queue
        self._asked: deque[_Asked] = deque()
        self._changed = threading.Condition()
        self._open, self._ringing = True, False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self.waiting, self.rows, self.batches = 0, 0, 0

    def __enter__(self) -> Batcher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether questions are being answered."""
        return self._open and self._thread.is_alive()

    def ask(self, question: PredictRequest) -> asyncio.Future[str]:
        """Queue a question; return its answer to be, on the running event loop.

        Raises:
            Full: if too many rows wait already; a question that finds nothing waiting is always taken.
            Closed: if no thread is there to answer.
        """
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        with self._changed:
            if not self.alive:
                raise Closed
            if self.waiting and self.waiting + len(question.rows) > self._queue:
                raise Full
            self._asked.append(_Asked(question, future))
            self.waiting += len(question.rows)
            if not self._ringing:  # once all that arrived with this one are queued, so that they are one batch
                self._ringing = True
                future.get_loop().call_soon(self._ring)
        return future

    def _ring(self) -> None:
        with self._changed:
            self._ringing = False
            self._changed.notify()

    def _work(self) -> None:
        while batch := self._take():
            outcomes = self._outcomes(batch)
            self.batches += 1
            self.rows += sum(len(one.question.rows) for one in batch)
            with suppress(RuntimeError):  # the event loop was closed: nobody waits
                batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, outcomes)

    def _take(self) -> list[_Asked]:
        batch: list[_Asked] = []
        rows = 0
        with self._changed:
            while not batch and (self._asked or self._open):
                while not self._asked and self._open:
                    self._changed.wait()
                while self._asked and (not batch or rows + len(self._asked[0].question.rows) <= self._batch):
                    one = self._asked.popleft()
                    self.waiting -= len(one.question.rows)
                    if not one.future.cancelled():
                        batch.append(one)
                        rows += len(one.question.rows)
        return batch

    def _outcomes(self, batch: Sequence[_Asked]) -> list[str | Exception]:
        try:
            return [*self._answers([one.question for one in batch])]
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [outcome for one in batch for outcome in self._outcomes([one])]  # only the one at fault fails


def _deliver(batch: Sequence[_Asked], outcomes: Sequence[str | Exception]) -> None:
    for one, outcome in zip(batch, outcomes, strict=True):
        if one.future.done():  # its client is gone
            continue
        if isinstance(outcome, Exception):
            one.future.set_exception(outcome)
        else:
            one.future.set_result(outcome)
