"""Serve a trained model over HTTP: ``bam serve run=RUN_ID``."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bam_lightning.config.exceptions import ConfigError, ServingError
from bam_lightning.config.options import StoreOptions, command, option
from bam_lightning.config.validation import check_at_least, check_range, require_extra
from bam_lightning.inference.serving.requests import Limits

if TYPE_CHECKING:
    from uvicorn import Server

    from bam_lightning.inference.predictor import Predictor
    from bam_lightning.inference.serving.batcher import Batcher
    from bam_lightning.inference.serving.worker import Worker

USAGE = """
Serve a trained model over HTTP: all its tasks by name, with a page to try it in a browser.

  bam serve run=RUN_ID store=DIR
  curl localhost:8000/predict -H 'Content-Type: application/json' -d '{"rows": [["A man sleeps."]], "task": "all"}'

GET / is the page; beside it /tasks, /health, /metrics (Prometheus) and /openapi.json (every path and answer). It
listens on this machine only (127.0.0.1), unless host= says otherwise; there is no password, so let others in through a
proxy that asks for one. Ctrl+C or SIGTERM stop it: requests that are under way are answered first.
"""
NEEDS = ("fastapi", "uvicorn", "httptools")
SECONDS_TO_STOP = 15  # longer than a body may take to arrive
BACKLOG = 2048  # connections that the system holds until they are taken


@dataclass
class ServeOptions(StoreOptions):
    """Options of the command."""

    run: str = option("???", "a Run of the store, a folder, or a hub id")
    port: int = option(8000, "port to listen on; 0 takes a free one")
    host: str = option("127.0.0.1", "address to listen on: this machine only; 0.0.0.0 lets every machine in")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    precision: str = option("auto", "auto (as it was trained), bf16-mixed or 32-true")
    heads: list[str] = field(default_factory=list, metadata={"help": "head classes of one's own that may be run"})
    revision: str | None = option(None, "revision of a hub id")
    rows: int = option(Limits.rows, "rows that a request may have")
    characters: int = option(Limits.characters, "characters that a text may have")
    bytes: int = option(Limits.bytes, "bytes that a request's body may have")
    batch: int = option(64, "rows that are computed together; 1 puts no requests together")
    queue: int = option(1024, "rows that may wait; more are refused with 503")
    threads: int | None = option(None, "cores that the model computes on, on a CPU; null: all but one, which has HTTP")

    def __post_init__(self) -> None:
        for name in ("rows", "characters", "bytes", "batch", "queue"):
            check_at_least(name, getattr(self, name), 1)
        check_range("port", self.port, 0, 65535)
        if self.threads is not None:
            check_at_least("threads", self.threads, 1)


def job(options: ServeOptions) -> None:
    """Load the model and serve it until the process is asked to stop.

    Raises:
        ConfigError: if the server's packages are not installed.
        OSError: if the address cannot be listened on.
        ValueError: if there is no such model, or it is damaged.
    """
    require_extra("serving", NEEDS, "serve")
    from bam_lightning.inference.serving.worker import Loading, Worker

    threads = options.threads or max(1, (os.cpu_count() or 1) - 1)  # one is left for HTTP
    loading = Loading(
        options.run, options.store, options.device, options.precision, tuple(options.heads), options.revision, threads
    )
    with listen(options.host, options.port) as listener, Worker(loading) as worker:
        run(worker, listener, options)
        if worker.gone:
            raise ServingError("the model's process ended by itself, out of memory perhaps; the server has stopped")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        ConfigError: naming the address that is taken or is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that just stopped leaves no trace
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror}); choose others with host= and port="
        ) from error
    return listener


def run(worker: Worker, listener: socket.socket, options: ServeOptions) -> None:
    """Serve a model on a bound socket until SIGTERM or SIGINT; answer what is under way, then return."""
    from bam_lightning.inference.serving.batcher import Batcher

    with Batcher(worker, options.batch, options.queue) as batcher:
        served = server(worker, batcher, Limits(options.bytes, options.rows, options.characters))

        def stop(*_: Any) -> None:  # until uvicorn listens for signals itself; afterwards it sends each once more
            served.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        listener.listen(BACKLOG)
        print(f"serving {worker.saved.id} ({_tasks(list(worker.saved.tasks))}) on {address(listener)}", flush=True)
        served.run([listener])
    print("stopped", flush=True)


def server(model: Predictor | Worker, batcher: Batcher, limits: Limits) -> Server:
    """Return a server that is not yet running."""
    import uvicorn

    from bam_lightning.inference.serving.app import App

    config = uvicorn.Config(
        App(model, batcher, limits),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_STOP,
    )
    return uvicorn.Server(config)


def address(listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _tasks(names: Sequence[str]) -> str:
    return f"task {names[0]}" if len(names) == 1 else f"{len(names)} tasks: {', '.join(names)}"


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are small: its threads only get in the way
    command(ServeOptions, USAGE, job)


if __name__ == "__main__":
    main()
