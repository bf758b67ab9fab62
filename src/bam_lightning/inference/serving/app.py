"""The server: ASGI application, metrics, and the loop of ``bam serve``. Every response but the page is JSON or text."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Request, Response
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bam_lightning.config.exceptions import ConfigError, ServingError
from bam_lightning.config.validation import check_at_least, check_range
from bam_lightning.inference.model_info import ModelInfo
from bam_lightning.inference.serving import schemas
from bam_lightning.inference.serving.batcher import CLOSE_SECONDS, Batcher, ClosedError, QueueFullError
from bam_lightning.inference.serving.page import Page
from bam_lightning.inference.serving.schemas import Limits, RequestError, error_responses, parse_request
from bam_lightning.inference.serving.worker import LoadOptions, Worker

if TYPE_CHECKING:
    from bam_lightning.inference.predictor import Predictor

LOG = logging.getLogger(__name__)
BODY_SECONDS = 5.0  # within which a request body must arrive
HEADER_SECONDS = 5.0  # within which the headers of a request must arrive
HEADER_BYTES = 32 << 10  # of a request's first line and headers
STUCK_DEADLINES = 10  # deadlines after which the model's process is killed
RETRY_SECONDS = 1
STOP_SECONDS = 6  # for requests in progress; the batcher and the worker then get one second each
BACKLOG = 2048  # connections that the system queues until they are accepted
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
DESCRIPTION = """
Predict with every task of a model. `POST /predict` answers; `GET /tasks` lists the tasks; `GET /` is a page to try
them. The numbers are those of `Predictor.predict`.
"""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]


class BatcherCollector(Collector):
    """Prometheus metrics of a batcher and its model, read when they are asked for."""

    def __init__(self, batcher: Batcher, model: Predictor | Worker) -> None:
        self._batcher, self._model = batcher, model

    def collect(self) -> Iterator[Metric]:
        """Yield the number of computed rows and batches, and of waiting rows."""
        yield CounterMetricFamily("bam_rows", "Rows computed.", value=self._batcher.rows)
        yield CounterMetricFamily("bam_batches", "Batches computed.", value=self._batcher.batches)
        yield GaugeMetricFamily("bam_queue_rows", "Rows waiting in the queue.", value=self._batcher.waiting)
        if isinstance(self._model, Worker):
            yield CounterMetricFamily("bam_restarts", "Restarts of the model's process.", value=self._model.restarts)


class App:
    """An ASGI application.

    Args:
        model: The model; only its description, device and precision are read here.
        batcher: The running queue of requests to the model.
        limits: Limits of one request.
        deadline: Seconds within which a request is answered, or given up.
    """

    def __init__(self, model: Predictor | Worker, batcher: Batcher, limits: Limits, deadline: float = 30.0) -> None:
        self.model, self.batcher, self.limits, self.deadline = model, batcher, limits, deadline
        self.info: ModelInfo = model.info
        self.page = Page()
        self.registry = CollectorRegistry()
        self.registry.register(BatcherCollector(batcher, model))
        self.requests = Counter(
            "bam_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "bam_predict_seconds", "Seconds from a predict request to its response.", buckets=BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self.api = FastAPI(
            title="bam_lightning", description=DESCRIPTION, version=self.info.id,
            docs_url=None, redoc_url=None, redirect_slashes=False,
        )  # fmt: skip
        self._add_routes(self.api)
        self.paths = {"/openapi.json", *(str(getattr(route, "path", "")) for route in self.api.routes)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and count it."""
        if scope["type"] != "http":
            return await self.api(scope, receive, send)  # type: ignore[arg-type]
        began, path = time.perf_counter(), scope["path"]

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
                self.requests.labels(path if path in self.paths else "other", str(message["status"])).inc()
                if path == "/predict" and message["status"] == 200:
                    self.seconds.observe(time.perf_counter() - began)
            await send(message)

        if path == "/predict" and scope["method"] == "POST":  # FastAPI's routing would take half of the time
            response = await self.predict(Request(scope, receive))
            await response(scope, receive, send_and_count)  # type: ignore[arg-type]
        else:
            await self.api(scope, receive, send_and_count)  # type: ignore[arg-type]

    def _add_routes(self, api: FastAPI) -> None:
        first = next(iter(self.info.tasks.values()))
        example = {"rows": [list(first.example_row())], "task": first.name}
        body = schemas.request_body(schemas.request_model(self.info.tasks, self.limits), example)
        html: Responses = {200: {"content": {"text/html": {}}}}
        text: Responses = {200: {"content": {"text/plain": {}}}}
        api.get("/", response_class=Response, responses={**html, **error_responses(405)})(self.home)
        api.get("/health", response_model=schemas.HealthResponse, responses=error_responses(405, 503))(self.health)
        api.get("/metrics", response_class=Response, responses={**text, **error_responses(405)})(self.metrics)
        api.get("/tasks", response_model=schemas.TasksResponse, responses=error_responses(405))(self.tasks)
        api.post(
            "/predict",
            response_model=schemas.PredictResponse,
            responses=error_responses(400, 405, 408, 413, 415, 422, 500, 503),
            openapi_extra=body,
        )(self.predict)
        for status in (404, 405):
            api.add_exception_handler(status, _answer_unknown_path)

    async def home(self) -> Response:
        """Return a page to try the model in a browser."""
        return Response(self.page.content, media_type="text/html", headers=self.page.headers)

    async def health(self) -> Response:
        """Report whether the model answers."""
        if not self._answers():
            return _error(503, "the model does not answer", {"Retry-After": str(RETRY_SECONDS)})
        return _json({"status": "ok", "run": self.info.id, "device": str(self.model.device),
                      "precision": self.model.precision})  # fmt: skip

    def _answers(self) -> bool:
        if not isinstance(self.model, Worker):
            return self.batcher.alive
        busy_since = self.model.busy_since
        stuck = busy_since is not None and time.monotonic() - busy_since > self.deadline
        return self.batcher.alive and self.model.ready and not stuck

    async def metrics(self) -> Response:
        """Return counters and latencies in Prometheus's text format."""
        return Response(generate_latest(self.registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    async def tasks(self) -> Response:
        """List the tasks, their labels and dev scores, and the limits of a request."""
        tasks = [
            {
                "name": task.name,
                "columns": task.columns,
                "labels": task.label_names,
                "range": task.label_range,
                "metric": task.metric,
                "score": task.scores.get(task.metric),
            }
            for task in self.info.tasks.values()
        ]
        return _json({"run": self.info.id, "tasks": tasks, "limits": asdict(self.limits)})

    async def predict(self, request: Request) -> Response:
        """Return labels and probabilities of each row, by task."""
        retry = {"Retry-After": str(RETRY_SECONDS)}
        try:
            parsed = parse_request(await _read_body(request, self.limits.bytes), self.info, self.limits)
            answer = self.batcher.submit(parsed)
            timer = answer.get_loop().call_later(self.deadline, _expire, answer)  # a cancel scope costs ten times that
            try:
                return Response(await answer, media_type="application/json")
            finally:
                timer.cancel()
        except RequestError as error:
            return _error(error.status, str(error))
        except TimeoutError:
            return _error(503, f"no answer within {self.deadline:g} seconds; retry later", retry)
        except ServingError as error:
            return _error(503, f"{error}; retry later", retry)
        except ClientDisconnect:
            return _error(400, "the client disconnected before the end of its body")  # not read, but counted
        except QueueFullError:
            return _error(503, f"the queue is full ({self.batcher.waiting} rows are waiting); retry later", retry)
        except ClosedError:
            return _error(503, "the server is stopping", retry)
        except Exception:
            LOG.exception("prediction failed")
            return _error(500, "the model failed; the server's log has the reason")


async def _read_body(request: Request, max_bytes: int) -> bytes:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError(415, f"the content type must be application/json, got {content_type[:80] or 'none'}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise RequestError(415, f"the body must not be encoded, got {encoding[:80]}")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        raise RequestError(413, f"the body may have {max_bytes} bytes, got {length}")
    body = bytearray()
    async for part in request.stream():  # the protocol gives up a slow one
        body += part
        if len(body) > max_bytes:
            raise RequestError(413, f"the body may have {max_bytes} bytes, got more")
    return bytes(body)


def _expire(answer: asyncio.Future[str]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Response(text, status, headers, "application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": message}, status, headers)


class BoundedProtocol(HttpToolsProtocol):
    """HTTP with bounds that uvicorn does not have: on connections, and on the size and time of headers and bodies."""

    max_connections = 1024
    _header_bytes = 0  # received since the headers began
    _in_headers, _in_body = True, False
    _timer: asyncio.TimerHandle | None = None  # gives up the headers or the body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection if there are not too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, f"there are {self.max_connections} connections; retry later")
        else:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a part of a request."""
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if not (self._in_headers or self._in_body) or self.transport.is_closing():
            return
        if self._in_headers and self._header_bytes > HEADER_BYTES:
            self._refuse(431, f"the headers may have {HEADER_BYTES} bytes")
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS if self._in_headers else BODY_SECONDS, self._give_up)

    def on_message_begin(self) -> None:
        """Note that headers begin."""
        super().on_message_begin()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        """Note that the headers have arrived."""
        self._in_headers, self._in_body, self._header_bytes = False, True, 0
        self._cancel_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the body has arrived."""
        self._in_body = False
        self._cancel_timer()
        super().on_message_complete()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self._in_body and not self.cycle.response_started:
            self._refuse(408, f"the body did not arrive within {BODY_SECONDS:g} seconds")
        elif self._in_headers and self._header_bytes:
            self._refuse(408, f"the headers did not arrive within {HEADER_SECONDS:g} seconds")
        else:  # nothing was asked, or a body that was refused goes on: closing at once could have lost the response
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


async def _answer_unknown_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:200], request.method
    if error.status_code == 404:
        return _error(404, f"no path {path}; paths: /, /predict, /tasks, /health, /metrics, /openapi.json")
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return _error(405, f"{path} does not accept {method}; use {headers.get('allow', 'another method')}", headers)


@dataclass(kw_only=True)
class ServeOptions:
    """Options of ``bam serve``; see its ``--help``."""

    run: str
    store: str = "store"
    port: int = 8000
    host: str = "127.0.0.1"
    device: str = "auto"
    precision: str = "auto"
    heads: Sequence[str] = field(default_factory=list)
    revision: str | None = None
    cors_origins: Sequence[str] = field(default_factory=list)
    allowed_hosts: Sequence[str] = field(default_factory=list)
    rows: int = Limits.rows
    characters: int = Limits.characters
    bytes: int = Limits.bytes
    batch: int = 64
    queue: int = 1024
    connections: int = 1024
    deadline: float = 30.0
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "characters", "bytes", "batch", "queue", "connections"):
            check_at_least(name, getattr(self, name), 1)
        check_range("port", self.port, 0, 65535)
        check_range("deadline", self.deadline, 0.1, 86_400)
        if self.threads is not None:
            check_at_least("threads", self.threads, 1)
        for origin in self.cors_origins:
            if origin != "*" and (not origin.startswith(("http://", "https://")) or origin.count("/") != 2):
                raise ConfigError(f"cors-origin must be * or an origin such as https://example.org, got {origin!r}")
        for host in self.allowed_hosts:
            if not host or "/" in host or ":" in host or "*" in host.removeprefix("*."):
                raise ConfigError(f"allowed-host must be a host name without a port, or *.NAME, got {host!r}")


def serve(options: ServeOptions) -> None:
    """Load a model and serve it until SIGTERM or SIGINT.

    Raises:
        ConfigError: If the address cannot be listened on.
        StoreError: If there is no such model, or it is damaged.
        ServingError: If the model's process ended by itself.
    """
    disable_created_metrics()  # a time series per counter that nobody reads
    threads = options.threads or max(1, (os.cpu_count() or 1) - 1)  # one core is left for HTTP
    load_options = LoadOptions(
        options.run, options.store, options.device, options.precision, tuple(options.heads), options.revision, threads
    )
    stuck_seconds = STUCK_DEADLINES * options.deadline
    with listen(options.host, options.port) as listener, Worker(load_options, stuck_seconds) as worker:
        _serve_model(worker, listener, options)
        if worker.gone:
            raise ServingError("the model's process ended unexpectedly, perhaps out of memory; the server has stopped")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        ConfigError: If the address is in use, or does not belong to this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # restart at once after a stop
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror}); choose others with --host and --port"
        ) from error
    return listener


def _serve_model(worker: Worker, listener: socket.socket, options: ServeOptions) -> None:
    """Serve a model on a bound socket until SIGTERM or SIGINT; answer requests in progress, then return."""
    with Batcher(worker, options.batch, options.queue, CLOSE_SECONDS) as batcher:
        limits = Limits(options.bytes, options.rows, options.characters)
        app = App(worker, batcher, limits, options.deadline)
        server = make_server(app, options.cors_origins, options.allowed_hosts, _raise_file_limit(options.connections))

        def stop(*_: Any) -> None:  # until uvicorn handles signals itself; afterwards it raises each once more
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        listener.listen(BACKLOG)
        print(f"serving {worker.info.id} ({_list_tasks(list(worker.info.tasks))}) on {url_of(listener)}", flush=True)
        server.run([listener])
    print("stopped", flush=True)


def _raise_file_limit(connections: int) -> int:
    """Let this process open a file per connection; return the number of connections that the system allows."""
    spare = 64  # files that are open anyway
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + spare
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else min(connections, max(1, soft - spare))


def make_server(
    app: App, cors_origins: Sequence[str] = (), allowed_hosts: Sequence[str] = (), connections: int = 1024
) -> uvicorn.Server:
    """Return a server that is not running yet."""
    application: Any = app
    if cors_origins:
        application = CORSMiddleware(
            application, allow_origins=cors_origins, allow_methods=["GET", "POST"], allow_headers=["Content-Type"]
        )
    if allowed_hosts:
        application = TrustedHostMiddleware(application, allowed_hosts=allowed_hosts, www_redirect=False)
    config = uvicorn.Config(
        application,
        http=type("Protocol", (BoundedProtocol,), {"max_connections": connections}),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return uvicorn.Server(config)


def url_of(listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _list_tasks(names: Sequence[str]) -> str:
    return f"task {names[0]}" if len(names) == 1 else f"{len(names)} tasks: {', '.join(names)}"
