"""The server's paths: FastAPI outside, one queue to the model inside. Every answer but the page is JSON or text."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from bam_lightning.inference.model_info import ModelInfo
from bam_lightning.inference.serving import schemas
from bam_lightning.inference.serving.batcher import Batcher, Closed, Full
from bam_lightning.inference.serving.gauges import TYPE, Gauges
from bam_lightning.inference.serving.page import Page
from bam_lightning.inference.serving.requests import Limits, RequestError, body_schema, parse_request

if TYPE_CHECKING:
    from bam_lightning.inference.predictor import Predictor
    from bam_lightning.inference.serving.worker import Worker

LOG = logging.getLogger(__name__)
BODY_SECONDS = 10.0  # that a client may take to send a body
RETRY_SECONDS = 1
ABOUT = """
Ask a model for its tasks by name. `POST /predict` answers; `GET /tasks` says what may be asked; `GET /` is a page to
try it. Numbers are those of `Model.predict`.
"""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = dict[str, Any]
Described = dict[int | str, dict[str, Any]]


class App:
    """An ASGI application.

    Args:
        model: what answers; only its description and its device are read here.
        batcher: the queue to it, which is running.
        limits: what one request may cost.
    """

    def __init__(self, model: Predictor | Worker, batcher: Batcher, limits: Limits) -> None:
        self.model, self.batcher, self.limits = model, batcher, limits
        self.saved: ModelInfo = model.saved
        self.page, self.gauges = Page(), Gauges()
        self.inner = FastAPI(
            title="bam_lightning", description=ABOUT, version=self.saved.id,
            docs_url=None, redoc_url=None, redirect_slashes=False,
        )  # fmt: skip
        self._add_paths(self.inner)
        self.paths = {"/openapi.json", *(str(getattr(route, "path", "")) for route in self.inner.routes)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and count it."""
        if scope["type"] != "http":
            return await self.inner(scope, receive, send)  # type: ignore[arg-type]
        began, path = time.perf_counter(), scope["path"]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
                self.gauges.count(path if path in self.paths else "other", message["status"])
                if path == "/predict" and message["status"] == 200:
                    self.gauges.time(time.perf_counter() - began)
            await send(message)

        if path == "/predict" and scope["method"] == "POST":  # not through FastAPI's rooms: they take half the time
            response = await self.predict(Request(scope, receive))
            await response(scope, receive, counted)  # type: ignore[arg-type]
        else:
            await self.inner(scope, receive, counted)  # type: ignore[arg-type]

    def _add_paths(self, app: FastAPI) -> None:
        names = list(self.saved.tasks)
        width = len(next(iter(self.saved.tasks.values())).columns)
        example = {"rows": [["A man sleeps.", "A person rests."][:width]], "task": names[0]}
        html: Described = {200: {"content": {"text/html": {}}}}
        text: Described = {200: {"content": {"text/plain": {}}}}
        app.get("/", response_class=Response, responses={**html, **schemas.answers(405)})(self.home)
        app.get("/health", response_model=schemas.Health, responses=schemas.answers(405, 503))(self.health)
        app.get("/metrics", response_class=Response, responses={**text, **schemas.answers(405)})(self.metrics)
        app.get("/tasks", response_model=schemas.Tasks, responses=schemas.answers(405))(self.tasks)
        app.post(
            "/predict",
            response_model=schemas.Predictions,
            responses=schemas.answers(400, 405, 408, 413, 415, 422, 500, 503),
            openapi_extra=schemas.asks(body_schema(names, self.limits), example),
        )(self.predict)
        for kind in (404, 405):
            app.add_exception_handler(kind, _no_path)

    async def home(self) -> Response:
        """Answer with a page to try the model in a browser."""
        return Response(self.page.content, media_type="text/html", headers=self.page.headers)

    async def health(self) -> Response:
        """Say whether the model answers."""
        alive = self.batcher.alive
        if not alive:
            return _fault(503, "the model does not answer", {"Retry-After": str(RETRY_SECONDS)})
        return _json({"status": "ok", "run": self.saved.id, "device": str(self.model.device),
                      "precision": self.model.precision})  # fmt: skip

    async def metrics(self) -> Response:
        """Say what was counted, as Prometheus reads it."""
        queue = self.batcher
        return Response(self.gauges.text(queue.waiting, queue.rows, queue.batches), headers={"content-type": TYPE})

    async def tasks(self) -> Response:
        """Say what may be asked, and how well it is answered."""
        sheets = [
            {
                "name": task.name,
                "columns": task.columns,
                "labels": task.label_names,
                "range": task.label_range,
                "metric": task.metric,
                "score": task.scores.get(task.metric),
            }
            for task in self.saved.tasks.values()
        ]
        return _json({"run": self.saved.id, "tasks": sheets, "limits": vars(self.limits)})

    async def predict(self, request: Request) -> Response:
        """Answer with labels and probabilities of each row, by task."""
        retry = {"Retry-After": str(RETRY_SECONDS)}
        try:
            question = parse_request(await _body(request, self.limits.bytes), self.saved, self.limits)
            return Response(await self.batcher.ask(question), media_type="application/json")
        except RequestError as error:
            return _fault(error.status, str(error))
        except ClientDisconnect:
            return _fault(400, "the client went before its body was whole")  # read by nobody; counted
        except Full:
            return _fault(503, f"{self.batcher.waiting} rows wait already; ask again", retry)
        except Closed:
            return _fault(503, "the server is being stopped", retry)
        except Exception:
            LOG.exception("no answer to a question")
            return _fault(500, "the model failed; the server's log says why")


async def _body(request: Request, largest: int) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, f"the body must be of the type application/json, got {kind[:80] or 'none'}")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise RequestError(415, f"the body must not be encoded, got {coding[:80]}")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > largest):
        raise RequestError(413, f"the body may have {largest} bytes, got {length}")
    body = bytearray()
    with anyio.move_on_after(BODY_SECONDS):
        async for part in request.stream():
            body += part
            if len(body) > largest:
                raise RequestError(413, f"the body may have {largest} bytes, got more")
        return bytes(body)
    raise RequestError(408, f"the body did not arrive within {BODY_SECONDS:g} seconds")


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Response(text, status, headers, "application/json")


def _fault(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": message}, status, headers)


async def _no_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:200], request.method
    if error.status_code == 404:
        return _fault(404, f"no path {path}; there are /, /predict, /tasks, /health, /metrics and /openapi.json")
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return _fault(405, f"{path} does not take {method}; it takes {headers.get('allow', 'another')}", headers)
