"""The command: where it listens, what it says, and how it stops."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from bam_lightning import cli
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.inference.serving.app import ServeOptions, listen, url_of
from forked_python import python

START = ["-m", "bam_lightning.cli", "serve"]


@pytest.fixture
def started(trained, request, monkeypatch):
    """The command on a free port: its process and its URL, read from its first line."""
    monkeypatch.setenv("FORKED_PYTHON_CHILDREN", "yes")
    executable = getattr(request, "param", python)()
    words = [executable, *START, f"--run={trained.id}", f"--store={trained.store}", "--port=0", "--device=cpu"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        found = re.match(rf"^serving {trained.id} \(3 tasks: sst2, stsb, rte\) on (http://127\.0\.0\.1:\d+)$", line)
        assert found, line + process.stderr.read()
        yield process, found.group(1)
        process.kill()


def large(url):
    """A request that takes the model a moment."""
    return httpx.post(f"{url}/predict", json={"rows": ["the cat sleeps on a man " * 40] * 128}, timeout=60)


def rows(url):
    """Rows that wait or are done."""
    lines = dict(line.split() for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith("bam_"))
    return float(lines["bam_queue_rows"]) + float(lines["bam_rows_total"])


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.release)])
def test_a_signal_lets_what_is_under_way_be_answered_and_ends_with_0(started, number):
    process, url = started
    answers = []
    clients = [threading.Thread(target=lambda: answers.append(large(url))) for _ in range(6)]
    idle = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))  # has asked nothing
    for client in clients:
        client.start()
    while rows(url) < 5 * 128:  # one more is being computed, or on its way
        assert any(client.is_alive() for client in clients)
    time.sleep(0.05)
    process.send_signal(number)
    began = time.monotonic()
    out, err = process.communicate(timeout=30)
    for client in clients:
        client.join()
    idle.close()
    assert (process.returncode, out, err) == (0, "stopped\n", "")
    assert time.monotonic() - began < 10
    assert len(answers) == 6
    assert {(answer.status_code, len(answer.json()["predictions"]["sst2"])) for answer in answers} == {(200, 128)}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_port_that_is_taken_is_one_line(trained):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        words = [f"--run={trained.id}", f"--store={trained.store}", f"--port={port}"]
        done = subprocess.run([python(), *START, *words], capture_output=True, text=True, timeout=60, check=False)
    message = f"cannot listen on 127.0.0.1 port {port} (Address already in use); choose others with --host and --port"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {message}\n")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_none_of_this_machine_is_named(host):
    with pytest.raises(
        ConfigError, match=rf"^cannot listen on {re.escape(host)} port 0 \([\w .,-]+\); choose others with"
    ):
        listen(host, 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_is_one_that_there_is(port):
    with pytest.raises(ValueError, match=rf"^port must be in \[0, 65535\], got {port}$"):
        ServeOptions(run="x", port=port)


def test_ipv6_is_listened_on_where_it_is_asked_for():
    try:
        with listen("::1", 0) as listener:
            assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")


def test_without_its_packages_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(
        "bam_lightning.config.validation.find_spec", lambda name: None if name in ("fastapi", "uvicorn") else object()
    )
    assert cli.run(["serve", "--run", "x"]) == 1
    assert capsys.readouterr().err == (
        "error: bam serve needs fastapi, uvicorn; run: pip install 'bam-lightning[serve]'\n"
    )


def test_it_listens_on_this_machine_only_unless_told_otherwise_and_help_says_so(capsys):
    assert ServeOptions(run="x").host == "127.0.0.1"
    assert cli.run(["serve", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "the default accepts this machine only, 0.0.0.0 every machine. [default: 127.0.0.1]" in text
    assert "There is no password" in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cors_origins": ["example.org"]}, "cors-origin must be * or an origin such as https://example.org, got "),
        ({"cors_origins": ["https://example.org/"]}, "cors-origin must be * or an origin such as "),
        ({"allowed_hosts": ["example.org:80"]}, "allowed-host must be a host name without a port, or *.NAME, got 'ex"),
        ({"allowed_hosts": ["a*.org"]}, "allowed-host must be a host name without a port, or *.NAME, got 'a*.org'"),
    ],
)
def test_origins_and_hosts_are_such(fields, message):
    with pytest.raises(ConfigError) as error:
        ServeOptions(run="x", **fields)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", ["rows", "characters", "bytes", "batch", "queue", "connections", "threads"])
def test_limits_are_at_least_one(name):
    with pytest.raises(ValueError, match=rf"^{name} must be at least 1, got 0$"):
        ServeOptions(run="x", **{name: 0})


def test_help_needs_neither_torch_nor_the_servers_packages(tmp_path):
    code = (
        "import sys; from bam_lightning import cli\n"
        "assert cli.run(['serve', '--help']) == 0\n"
        "assert not {'torch', 'fastapi', 'uvicorn', 'prometheus_client', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Serve a model over HTTP" in done.stdout


@pytest.mark.parametrize("started", [lambda: sys.executable], ids=["python"], indirect=True)
@pytest.mark.release
def test_a_model_that_was_killed_is_started_again_and_the_request_answered(started):
    process, url = started
    ask = lambda: httpx.post(f"{url}/predict", json={"rows": ["a cat"]}, timeout=60)  # noqa: E731
    before = ask()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (child,) = [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
    os.kill(child, signal.SIGKILL)
    answer = ask()
    assert (answer.status_code, answer.content) == (200, before.content)
    assert httpx.get(f"{url}/health").status_code == 200
    assert "bam_restarts_total 1.0" in httpx.get(f"{url}/metrics").text
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "the model's process ended (exit code -9); starting it again\n")
