"""Dynamic batching: one thread runs the model on all requests that are waiting, as soon as it is free.

There is no delay to fill a batch: an idle model answers a single request at once, and the requests that arrive in the
meantime form the next batch."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bam_lightning.config.exceptions import ServingError
from bam_lightning.data.items import ITEM_KINDS
from bam_lightning.inference.serving.schemas import PredictRequest

if TYPE_CHECKING:
    from bam_lightning.inference.predictor import Predictor

CLOSE_SECONDS = 1.0  # time for the current batch when the server stops


def predict_batch(model: Predictor, requests: Sequence[PredictRequest]) -> list[str]:
    """Return the JSON response to each request: task -> the predictions of ``Predictor.predict``.

    Rows of tasks that read plain texts share one pass of the encoder, whatever their tasks.
    """
    rows = [row for request in requests for row in request.rows]
    request_of = [number for number, request in enumerate(requests) for _ in request.rows]
    tasks = list(dict.fromkeys(task for request in requests for task in request.tasks))
    responses: list[dict[str, list[Any]]] = [{task: [] for task in request.tasks} for request in requests]
    for group in _group_tasks(model, tasks):
        shared = [place for place, number in enumerate(request_of) if not responses[number].keys().isdisjoint(group)]
        logits = model.row_logits([rows[place] for place in shared], group)
        for task in group:
            chosen = [at for at, place in enumerate(shared) if task in responses[request_of[place]]]
            positions = [shared[at] for at in chosen]
            found = model.postprocess(task, logits[task][np.asarray(chosen)], [rows[place] for place in positions])
            for position, prediction in zip(positions, found, strict=True):
                values = {name: value for name, value in prediction._asdict().items() if value is not None}
                responses[request_of[position]][task].append(values)
    return [json.dumps({"predictions": response}, separators=(",", ":"), allow_nan=False) for response in responses]


def _group_tasks(model: Predictor, tasks: Sequence[str]) -> list[list[str]]:
    """Return groups of tasks whose rows can be computed together: of plain texts, of one template, or of one task."""
    groups: dict[Any, list[str]] = {}
    for name in tasks:
        task = model.tasks[name]
        alone = task.kind in ITEM_KINDS or model.head(name).uses != "pooled"
        groups.setdefault(name if alone else task.text if task.reads_templates else (), []).append(name)
    return list(groups.values())


class QueueFullError(Exception):
    """The queue has no room for the request; retry later."""


class ClosedError(Exception):
    """The server is stopping."""


class _Pending(NamedTuple):
    request: PredictRequest
    future: asyncio.Future[str]


class Batcher:
    """A bounded queue of requests and the thread that answers them. A context manager.

    Args:
        predict: Function from requests to responses, in order; called by the thread only.
        batch: Maximum number of rows per batch; a larger request is a batch of its own.
        queue: Maximum number of waiting rows.
        close_seconds: How long to wait at exit for requests in progress; ``None`` waits until all are answered.

    Attributes:
        waiting: Number of rows in the queue.
        rows: Number of rows computed.
        batches: Number of batches computed.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[PredictRequest]], list[str]],
        batch: int,
        queue: int,
        close_seconds: float | None = None,
    ) -> None:
        self._predict, self._batch, self._queue, self._close_seconds = predict, batch, queue, close_seconds
        self._pending: deque[_Pending] = deque()
        self._changed = threading.Condition()
        self._open, self._notifying = True, False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self.waiting, self.rows, self.batches = 0, 0, 0

    def __enter__(self) -> Batcher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(self._close_seconds)
        with self._changed:
            self._pending.clear()

    @property
    def alive(self) -> bool:
        """Whether requests are being answered."""
        return self._open and self._thread.is_alive()

    def submit(self, request: PredictRequest) -> asyncio.Future[str]:
        """Queue a request. Return a future of its response on the running event loop.

        Raises:
            QueueFullError: If too many rows are waiting. A request is always accepted by an empty queue.
            ClosedError: If the thread has ended.
        """
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        with self._changed:
            if not self.alive:
                raise ClosedError
            if self.waiting and self.waiting + len(request.rows) > self._queue:
                raise QueueFullError
            self._pending.append(_Pending(request, future))
            self.waiting += len(request.rows)
            if not self._notifying:  # after all requests that arrived at the same time are queued: one batch
                self._notifying = True
                future.get_loop().call_soon(self._notify)
        return future

    def _notify(self) -> None:
        with self._changed:
            self._notifying = False
            self._changed.notify()

    def _work(self) -> None:
        while batch := self._next_batch():
            outcomes = self._run(batch)
            self.batches += 1
            self.rows += sum(len(pending.request.rows) for pending in batch)
            with suppress(RuntimeError):  # the event loop is closed, so no client is waiting
                batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, outcomes)

    def _next_batch(self) -> list[_Pending]:
        batch: list[_Pending] = []
        rows = 0
        with self._changed:
            while not batch and (self._pending or self._open):
                while not self._pending and self._open:
                    self._changed.wait()
                while self._pending and (not batch or rows + len(self._pending[0].request.rows) <= self._batch):
                    pending = self._pending.popleft()
                    self.waiting -= len(pending.request.rows)
                    if not pending.future.done():
                        batch.append(pending)
                        rows += len(pending.request.rows)
        return batch

    def _run(self, batch: Sequence[_Pending], retried: bool = False) -> list[str | Exception]:
        try:
            return [*self._predict([pending.request for pending in batch])]
        except BaseException as error:  # a panic of a Rust extension is not an Exception, and must not end the thread
            if isinstance(error, ServingError) and not retried:  # the process ended, perhaps not because of these
                return self._run(batch, retried=True)
            if len(batch) == 1:
                return [error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")]
            return [self._run([pending], retried)[0] for pending in batch]  # find the failing request


def _deliver(batch: Sequence[_Pending], outcomes: Sequence[str | Exception]) -> None:
    for pending, outcome in zip(batch, outcomes, strict=True):
        if pending.future.done():  # its client has disconnected
            continue
        if isinstance(outcome, Exception):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)
