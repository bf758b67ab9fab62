"""Serving eight tasks: one multi-task student, or eight single-task models, each in a server of its own.

Every side answers the same question: all eight predictions for a pair of texts. The student answers it in one request,
the eight servers in one request each, which a client sends to all of them before it reads the answers."""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import bam_lightning as bam

TASKS = 8
CLIENTS = 4
WORDS = "a man is playing the guitar while two children watch from an open window of their house in town".split()
SIZES = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "vocab_size": 30_522,
}  # MiniLM-L6's


def run(side: str, seconds: str) -> dict[str, float]:
    """Serve and ask for so many seconds; return questions a second (``rate``) and the servers' memory (``peak_mib``).

    Args:
        side: ``student`` or ``eight``.
        seconds: How long.
    """
    with tempfile.TemporaryDirectory() as folder:
        groups = [tuple(range(TASKS))] if side == "student" else [(task,) for task in range(TASKS)]
        saved = [_save(Path(folder) / str(number), tasks) for number, tasks in enumerate(groups)]
        servers = [_start(path) for path in saved]
        try:
            ports = [_port(server) for server in servers]
            _ask_for(ports, 2.0)  # warm
            times = _ask_for(ports, float(seconds))
            memory = sum(_proportional_mib(server.pid) for server in servers)
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait()
    return {
        "rate": len(times) / float(seconds),
        "seconds": float(seconds),
        "median_ms": 1000 * statistics.median(times),
        "peak_mib": round(memory),
    }


def _encoder(folder: Path) -> str:
    """Return the encoder: that of ``BAM_ENCODER_DIR``, else one of the same size with random weights."""
    if path := os.environ.get("BAM_ENCODER_DIR"):
        return path
    from transformers import BertConfig, BertModel

    from bam_lightning.training.masked_lm import make_tokenizer

    BertModel(BertConfig(**SIZES)).save_pretrained(folder)
    make_tokenizer([" ".join(WORDS)], 200).save_pretrained(folder)
    return str(folder)


def _save(folder: Path, tasks: tuple[int, ...]) -> Path:
    """Save a model of some of the tasks, as training would; what it answers does not matter here."""
    rows = [
        {"first": " ".join(WORDS[number:]), "second": " ".join(WORDS[: number + 1]), "label": "yn"[number % 2]}
        for number in range(8)
    ]
    described = {f"task_{task}": bam.Task.from_list(rows, text=["first", "second"], label="label") for task in tasks}
    data = bam.MultiTaskDataModule(described, encoder=_encoder(folder / "encoder"))
    return bam.BamModule(data).save_pretrained(folder / "model")


def _start(folder: Path) -> subprocess.Popen[str]:
    words = ["-m", "bam_lightning.cli", "serve", "--run", str(folder), "--port", "0", "--device", "cpu"]
    words += ["--threads", "1"]
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _port(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    line = server.stdout.readline()
    match = re.search(r":(\d+)$", line.strip())
    if match is None:
        raise RuntimeError(f"a server did not start; it said {line!r}")
    return int(match[1])


def _ask_for(ports: list[int], seconds: float) -> list[float]:
    """Ask from ``CLIENTS`` threads for so many seconds; return the seconds of each question."""
    times: list[float] = []
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connections = [http.client.HTTPConnection("127.0.0.1", port) for port in ports]
        asked = number
        while (begun := time.perf_counter()) < until:
            asked += CLIENTS
            pair = [" ".join(WORDS[asked % 7 :]), " ".join(WORDS[: 5 + asked % 11])]
            body = json.dumps({"rows": [pair], "task": "all"})
            for connection in connections:
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            for connection in connections:
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"a server answered {answer.status}: {content[:300]!r}")
            times.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def _proportional_mib(pid: int) -> float:
    """Return the memory of a process and its children, with their share of what they have in common (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return own + sum(_proportional_mib(int(child)) for of_thread in children for child in of_thread)
