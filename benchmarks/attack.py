"""Attack `bam serve` in several ways, beside a client that has to be answered all the time. `make attack` calls it.

    python benchmarks/attack.py [MODEL] [--store DIR] [--seconds 30] [--only NAME ...]

The table has the client's latencies before, during and after each attack, and the server's memory. The exit status is 1
if a request of the client got no prediction."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

PAUSE = 0.02  # seconds between two requests of the client
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


class Server(NamedTuple):
    """A running server: its process, port, and the body of a good request."""

    process: subprocess.Popen[str]
    port: int
    body: bytes

    def worker(self) -> int | None:
        """Return the process of the model, if there is one now."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        for child in [child for path in children for child in path.read_text().split()]:
            with contextlib.suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        return None

    def wait_until_ready(self) -> None:
        """Wait until the server says that its model answers."""
        status = 0
        while status != 200:
            time.sleep(1)
            line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            line.request("GET", "/health")
            status = line.getresponse().status
            line.close()

    def memory(self) -> float:
        """Return the MiB of the HTTP process and of the model's."""
        total = 0.0
        for process in filter(None, (self.process.pid, self.worker())):
            with contextlib.suppress(OSError):
                (kib,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
                total += int(kib) / 1024
        return total


@contextlib.contextmanager
def started(model: str, store: str) -> Iterator[Server]:
    """Yield a server of the model."""
    command = [sys.executable, "-m", "bam_lightning.cli", "serve", f"--run={model}", f"--store={store}", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+)$", process.stdout.readline())
        if not found:
            sys.exit("the server did not start")
        try:
            port = int(found[1])
            line = http.client.HTTPConnection("127.0.0.1", port)
            line.request("GET", "/tasks")
            texts = len(json.loads(line.getresponse().read())["tasks"][0]["columns"])
            line.close()
            yield Server(process, port, json.dumps({"rows": [["mulno puluk", "ta puluk"][:texts]]}).encode())
        finally:
            process.send_signal(signal.SIGTERM)


class Client:
    """Asks the server again and again, each time on a new connection, and keeps latencies and failures."""

    def __init__(self, server: Server) -> None:
        self.server, self.seconds, self.failures = server, list[float](), list[str]()
        self.stop = threading.Event()

    def run(self) -> None:
        """Ask until ``stop`` is set."""
        while not self.stop.wait(PAUSE):
            began = time.perf_counter()
            line = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
            try:
                line.request("POST", "/predict", self.server.body, {"Content-Type": "application/json"})
                answer = line.getresponse()
                content = answer.read()
                if answer.status != 200 or b"predictions" not in content:
                    self.failures.append(f"{answer.status} {content[:80]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                line.close()
            self.seconds.append(time.perf_counter() - began)

    def during(self, seconds: float) -> Client:
        """Ask for so many seconds; return itself."""
        thread = threading.Thread(target=self.run)
        thread.start()
        time.sleep(seconds)
        self.stop.set()
        thread.join()
        return self

    def percentiles(self) -> str:
        """Return the median, the 99th percentile and the longest latency, in ms."""
        ordered = sorted(self.seconds)
        return ", ".join(f"{1000 * ordered[int(share * (len(ordered) - 1))]:,.0f}" for share in (0.5, 0.99, 1))


async def slow_headers(reader: Reader, writer: Writer) -> None:
    """Send a header byte by byte."""
    for byte in HEAD + b"A: " + b"a" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.5)


async def huge_body(reader: Reader, writer: Writer) -> None:
    """Send a body without end, with its length or in chunks."""
    chunked = random.random() < 0.5
    writer.write(HEAD + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 99999999999\r\n\r\n"))
    part = b" " * 65536
    while True:
        writer.write(b"10000\r\n" + part + b"\r\n" if chunked else part)
        await writer.drain()


async def idle(reader: Reader, writer: Writer) -> None:
    """Open a connection, and send nothing."""
    await reader.read()


async def malformed(reader: Reader, writer: Writer) -> None:
    """Send bodies that are not JSON, or not a request, one after the other."""
    bodies = [b"[" * 50_000, b'{"rows": ["a"', b"\xff\xfe", b'{"rows": 9' + b"9" * 5000 + b"}", b'{"rows": [[["a"]]]}',
              b'{"rows": ["\\ud800"], "task": {}}', b"NaN", b"", b'{"rows": [' + b'"a",' * 9999 + b'"a"]}']  # fmt: skip
    while True:
        body = random.choice(bodies)
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        await reader.readexactly(int(found[1]) if found else 0)


async def nothing(reader: Reader, writer: Writer) -> None:
    """Attack nobody."""
    await reader.read()


class Attack(NamedTuple):
    """So many connections, each opened again when it ends; ``kills``: seconds between two kills of the model."""

    connections: int
    behave: Callable[[Reader, Writer], Awaitable[None]]
    kills: float = 0.0


ATTACKS = {
    "slow headers": Attack(500, slow_headers),
    "huge bodies": Attack(16, huge_body),
    "1,000 connections": Attack(1000, idle),
    "malformed JSON": Attack(16, malformed),
    "killed worker": Attack(0, nothing, kills=12.0),
}


def connect(port: int, name: str) -> None:
    """Attack until this process is ended."""

    async def again() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await ATTACKS[name].behave(reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.01)

    async def main() -> None:
        await asyncio.gather(*(again() for _ in range(ATTACKS[name].connections)))

    asyncio.run(main())


def kill_often(server: Server, pause: float, stop: threading.Event) -> None:
    """Kill the model's process again and again."""
    while not stop.wait(pause):
        if worker := server.worker():
            os.kill(worker, signal.SIGKILL)


def attack(server: Server, name: str, seconds: float) -> tuple[list[str], list[str]]:
    """Attack in one way; return the line of the table, and what the client was answered instead of a prediction."""
    quiet = min(5.0, seconds)
    before, memory = Client(server).during(quiet), server.memory()
    attacker = multiprocessing.get_context("spawn").Process(target=connect, args=(server.port, name), daemon=True)
    stop, kills = threading.Event(), ATTACKS[name].kills and min(ATTACKS[name].kills, seconds / 2)
    killer = threading.Thread(target=kill_often, args=(server, kills, stop))
    if kills:
        killer.start()
    else:
        attacker.start()
    client, during = Client(server).during(seconds), server.memory()
    stop.set()
    if kills:
        killer.join()
    else:
        attacker.kill()
        attacker.join()
    server.wait_until_ready()
    after = Client(server).during(quiet)
    failures = before.failures + client.failures + after.failures
    answered = f"{len(client.seconds) - len(client.failures):,} of {len(client.seconds):,}"
    mib = f"{memory:,.0f}, {during:,.0f}, {server.memory():,.0f}"
    return [name, answered, before.percentiles(), client.percentiles(), after.percentiles(), mib], failures


def newest_run(store: str) -> str:
    """Return the id of the Run that was trained last."""
    runs = sorted(Path(store).glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        sys.exit(f"no Run in {store}; `make demo` trains some")
    return runs[-1].parent.name


def main(words: list[str] | None = None) -> int:
    """Attack in each way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a Run, or a folder; the newest Run of the store unless given")
    parser.add_argument("--store", default="store")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each attack")
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    asked = parser.parse_args(words)
    latencies = "before: median, p99, longest (ms) | meanwhile | after"
    print(f"| attack | answered meanwhile | {latencies} | MiB before, at the end, after |")
    print("|---|---|---|---|---|---|", flush=True)
    failures = []
    with started(asked.model or newest_run(asked.store), asked.store) as server:
        for name in asked.only:
            line, failed = attack(server, name, asked.seconds)
            print(f"| {' | '.join(line)} |", flush=True)
            failures += [f"{name}: {reason}" for reason in failed]
    print(*failures[:20], sep="\n", file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
