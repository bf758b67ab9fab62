"""The server over real sockets: numbers of ``Model.predict``, limits, malformed requests, its own schema."""

import contextlib
import http.client
import json
import logging
import random
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

import httpx
import pytest

import bam_lightning as bam
from bam_lightning.inference.serving.schemas import Limits
from conftest import sentences, serving

PAIRS = [["the cat sleeps", "a cat rests"], ["a dog runs", "the man eats"], ["the woman was good", "it"]]
JSON = {"Content-Type": "application/json"}
SHORT = Limits(bytes=2000, rows=4, characters=50)


@pytest.fixture(scope="module")
def strict(trained):
    """The model behind narrow limits."""
    with serving(bam.load(trained.id, store=trained.store), limits=SHORT) as found:
        yield found


def as_json(said):
    return {
        task: [{"label": one.label, "probabilities": one.probabilities} for one in rows] for task, rows in said.items()
    }


@pytest.mark.parametrize("task", ["rte", ["stsb"], ["rte", "stsb"], "all"])
def test_answers_are_those_of_predict_to_the_digit(served, task):
    answer = httpx.post(f"{served.url}/predict", json={"rows": PAIRS, "task": task})
    expected = served.model.predict(PAIRS, task=[task] if task == "rte" else task)
    assert answer.status_code == 200
    assert answer.json() == {"predictions": as_json(expected)}


def test_a_plain_text_is_a_row_and_all_is_the_default(served):
    answer = httpx.post(f"{served.url}/predict", json={"rows": ["it was good", ["it was bad"]]})
    assert answer.json() == {"predictions": as_json(served.model.predict(["it was good", "it was bad"]))}


def test_tasks_health_and_metrics_say_what_they_are_of(served, trained):
    sheets = httpx.get(f"{served.url}/tasks").json()
    scores = trained.results["runs"][-1]["metrics"]
    assert sheets["run"] == trained.id
    assert sheets["limits"] == {"bytes": 1 << 20, "rows": 128, "characters": 10_000}
    assert sheets["tasks"][1:] == [
        {"name": "stsb", "columns": ["sentence1", "sentence2"], "labels": [], "range": [0.0, 5.0],
         "metric": "spearman", "score": pytest.approx(scores["stsb"]["spearman"])},
        {"name": "rte", "columns": ["sentence1", "sentence2"], "labels": ["entailment", "not_entailment"], "range": [],
         "metric": "accuracy", "score": pytest.approx(scores["rte"]["accuracy"])},
    ]  # fmt: skip
    health = httpx.get(f"{served.url}/health").json()
    assert health == {"status": "ok", "run": trained.id, "device": "cpu", "precision": "32-true"}
    metrics = httpx.get(f"{served.url}/metrics")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'bam_requests_total{path="/tasks",status="200"}' in metrics.text


BODY = json.dumps({"rows": [PAIRS[0]]}).encode()


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "message"),
    [
        ("POST", "/predict", b"{", JSON, 400,
         "the body is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("POST", "/predict", BODY, {"Content-Type": "text/plain"}, 415,
         "the content type must be application/json, got text/plain"),
        ("POST", "/predict", BODY, {}, 415, "the content type must be application/json, got none"),
        ("POST", "/predict", BODY, {**JSON, "Content-Encoding": "gzip"}, 415, "the body must not be encoded, got gzip"),
        ("POST", "/predict", b" " * 2001, JSON, 413, "the body may have 2000 bytes, got 2001"),
        ("POST", "/predict", b'{"rows": ["a", "b", "c", "d", "e"]}', JSON, 422, "rows must have 1 to 4 rows, got 5"),
        ("POST", "/predict", b'{"rows": ["%s"]}' % (b"a" * 51), JSON, 422,
         "row 0: a text may have 50 characters, got 51"),
        ("POST", "/predict", b'{"rows": ["\\ud800"]}', JSON, 422, "row 0: sentence is not UTF-8 text"),
        ("POST", "/predict", b'{"rows": ["a"], "task": "\\ud800"}', JSON, 422,
         "task names '\\ud800'; choices: sst2, stsb, rte"),
        ("GET", "/predict", b"", {}, 405, "/predict does not accept GET; use POST"),
        ("DELETE", "/tasks", b"", {}, 405, "/tasks does not accept DELETE; use GET"),
        ("GET", "/nowhere", b"", {}, 404,
         "no path /nowhere; paths: /, /predict, /tasks, /health, /metrics, /openapi.json"),
        ("POST", "/predict/", BODY, JSON, 404,
         "no path /predict/; paths: /, /predict, /tasks, /health, /metrics, /openapi.json"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_said_in_one_line(strict, method, path, body, headers, status, message):
    answer = httpx.request(method, strict.url + path, content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (status, {"error": message})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_large_body_without_its_length_is_refused(strict):
    answer = httpx.post(f"{strict.url}/predict", content=(b" " * 500 for _ in range(9)), headers=JSON)
    assert (answer.status_code, answer.json()) == (413, {"error": "the body may have 2000 bytes, got more"})


def test_a_body_that_does_not_arrive_is_given_up(strict, monkeypatch):
    monkeypatch.setattr("bam_lightning.inference.serving.app.BODY_SECONDS", 0.2)
    sent = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    assert said(raw(strict, sent)) == (408, {"error": "the body did not arrive within 0.2 seconds"})


def left_open(served, sent, parts=0):
    """Return all bytes that come back before the server closes; this side never closes, and may send spaces."""
    address = urlparse(served.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as line:
        line.sendall(sent)
        for _ in range(parts):
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                line.sendall(b" ")
        return b"".join(iter(lambda: line.recv(65536), b""))


@pytest.mark.parametrize(
    "sent", [pytest.param(b"", marks=pytest.mark.release, id="nothing"), b"POST /predict HTTP/1.1\r\nHost:"]
)
def test_headers_that_do_not_arrive_are_given_up(strict, monkeypatch, sent):
    monkeypatch.setattr("bam_lightning.inference.serving.app.HEADER_SECONDS", 0.2)
    answer = left_open(strict, sent, parts=6 if sent else 0)
    assert (
        answer == b"" if not sent else said(answer) == (408, {"error": "the headers did not arrive within 0.2 seconds"})
    )
    after = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + sent  # the second request of a connection
    answer = left_open(strict, after, parts=6 if sent else 0)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert (b"408 Request Timeout" in answer) == bool(sent)


def test_large_headers_are_refused(strict):
    answer = left_open(strict, b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000)
    assert said(answer) == (431, {"error": "the headers may have 32768 bytes"})


def test_a_body_that_nobody_reads_is_discarded_for_a_while_only(strict, monkeypatch):
    monkeypatch.setattr("bam_lightning.inference.serving.app.BODY_SECONDS", 0.2)
    sent = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n{"
    assert said(left_open(strict, sent, parts=6)) == (413, {"error": "the body may have 2000 bytes, got 99999"})


def test_more_connections_than_the_limit_are_refused(trained):
    with serving(bam.load(trained.id, store=trained.store), connections=2) as found:
        with httpx.Client() as client, httpx.Client() as other:
            assert [one.get(f"{found.url}/health").status_code for one in (client, other)] == [200, 200]
            answer = httpx.get(f"{found.url}/health")
            assert (answer.status_code, answer.json()) == (503, {"error": "there are 2 connections; retry later"})
            assert client.get(f"{found.url}/health").status_code == 200
        time.sleep(0.1)  # until the two are closed
        assert httpx.get(f"{found.url}/health").status_code == 200


def test_a_request_without_an_answer_in_time_is_503(trained, monkeypatch):
    gate = threading.Event()
    with serving(bam.load(trained.id, store=trained.store), answers=lambda _: gate.wait(30)) as found:
        monkeypatch.setattr(found.app, "deadline", 0.1)
        answer = httpx.post(f"{found.url}/predict", json={"rows": PAIRS})
        assert (answer.status_code, answer.json()) == (503, {"error": "no answer within 0.1 seconds; retry later"})
        gate.set()


def test_questions_of_many_clients_are_not_mixed_up(served):
    texts = sentences(240, seed=5)
    pairs = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    expected = [as_json(served.model.predict([pair])) for pair in pairs]
    before = served.app.batcher.batches
    with httpx.Client() as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda pair: client.post(f"{served.url}/predict", json={"rows": [pair]}).json(), pairs))
    for answer, own in zip(answers, expected, strict=True):
        said = answer["predictions"]
        assert said["stsb"][0]["label"] == pytest.approx(own["stsb"][0]["label"], abs=1e-5)
        assert said["rte"][0]["probabilities"] == pytest.approx(own["rte"][0]["probabilities"], abs=1e-5)
    assert served.app.batcher.batches - before < len(pairs)  # some were computed together


def test_a_full_queue_is_503_with_the_time_to_come_back(trained):
    begun, gate = threading.Event(), threading.Event()

    def slow(questions):
        begun.set()
        gate.wait(30)
        return ["{}" for _ in questions]

    with (
        serving(bam.load(trained.id, store=trained.store), answers=slow, queue=3) as found,
        ThreadPoolExecutor(2) as pool,
    ):
        ask = lambda: httpx.post(f"{found.url}/predict", json={"rows": PAIRS}, timeout=30)  # noqa: E731
        first = pool.submit(ask)
        assert begun.wait(30)
        second = pool.submit(ask)
        while found.app.batcher.waiting < 3:
            assert not second.done()
        full = ask()
        gate.set()
        assert (full.status_code, full.json()) == (
            503,
            {"error": "the queue is full (3 rows are waiting); retry later"},
        )
        assert full.headers["retry-after"] == "1"
        assert [first.result().status_code, second.result().status_code] == [200, 200]


def test_a_model_that_fails_is_500_logged_and_the_server_goes_on(trained, caplog):
    def broken(questions):
        raise RuntimeError("out of memory")

    with serving(bam.load(trained.id, store=trained.store), answers=broken) as found:
        answer = httpx.post(f"{found.url}/predict", json={"rows": PAIRS})
        assert (answer.status_code, answer.json()) == (
            500,
            {"error": "the model failed; the server's log has the reason"},
        )
        assert httpx.get(f"{found.url}/health").status_code == 200
    assert "RuntimeError: out of memory" in caplog.text


def test_metrics_are_read_by_prometheus_own_parser(trained):
    from prometheus_client.parser import text_string_to_metric_families

    with serving(bam.load(trained.id, store=trained.store)) as found:
        for _ in range(3):
            httpx.post(f"{found.url}/predict", json={"rows": PAIRS})
        httpx.get(f"{found.url}/nowhere")
        text = httpx.get(f"{found.url}/metrics").text
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["bam_requests_total", "/predict", "200"] == 3
    assert samples["bam_requests_total", "other", "404"] == 1
    assert (samples["bam_rows_total",], samples["bam_batches_total",], samples["bam_queue_rows",]) == (9, 3, 0)
    assert samples["bam_predict_seconds_count",] == samples["bam_predict_seconds_bucket", "+Inf"] == 3
    assert 0 < samples["bam_predict_seconds_sum",] < 60


def test_other_origins_and_hosts_are_let_in_by_option_only(trained):
    model, origin = bam.load(trained.id, store=trained.store), {"Origin": "https://example.org"}
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    with serving(model) as found:
        assert "access-control-allow-origin" not in httpx.get(f"{found.url}/tasks", headers=origin).headers
    with serving(model, cors_origins=["https://example.org"], allowed_hosts=["127.0.0.1", "*.example.org"]) as found:
        answer = httpx.post(f"{found.url}/predict", json={"rows": PAIRS}, headers=origin)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://example.org")
        assert httpx.options(f"{found.url}/predict", headers=preflight).status_code == 200
        other = {**preflight, "Origin": "https://example.com"}
        assert httpx.options(f"{found.url}/predict", headers=other).status_code == 400
        for host, status in (("a.example.org:80", 200), ("example.com", 400)):
            assert httpx.get(f"{found.url}/health", headers={"Host": host}).status_code == status


def raw(served, sent):
    """Return all bytes that come back for the bytes sent, until the server has nothing more to say."""
    address = urlparse(served.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as line:
        try:
            line.sendall(sent)
            line.settimeout(1.0 if b"\r\n\r\n" in sent else 0.05)
            first = line.recv(65536)
            line.shutdown(socket.SHUT_WR)
            line.settimeout(10)
            return first + b"".join(iter(lambda: line.recv(65536), b""))
        except TimeoutError:
            return b""
        except (ConnectionError, BrokenPipeError):
            return b""


def said(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def mutated(rng, content):
    """Return bytes with a few of them flipped, cut out, doubled, or put in."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) + 1)
        kind = rng.randrange(4)
        if kind == 0 and place < len(content):
            content[place] = rng.randrange(256)
        elif kind == 1:
            del content[place : place + rng.randint(1, 12)]
        elif kind == 2:
            content[place:place] = content[place : place + rng.randint(1, 12)]
        else:
            content[place:place] = rng.choice(
                [b"\0", b"\xff", b'"', b"[" * 99, b"{", b"9" * 400, b"\\ud800", b"null", b"\r\n"]
            )
    return bytes(content)


FIELDS = [
    {"rows": PAIRS, "task": "all"},
    {"rows": ["it was good"], "task": ["sst2"]},
    {"rows": [["a", "b"]], "task": "rte"},
]


def test_a_thousand_malformed_bodies_give_no_5xx(served, caplog):
    rng, address, statuses = random.Random(7), urlparse(served.url), set()
    line = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    for number in range(1000):
        body = mutated(rng, json.dumps(FIELDS[number % 3]).encode())
        line.request("POST", "/predict", body, JSON)
        answer = line.getresponse()
        content = json.loads(answer.read())
        statuses.add(answer.status)
        assert list(content) == (["predictions"] if answer.status == 200 else ["error"]), (body, content)
    line.close()
    assert statuses == {200, 400, 422}  # some mutations change only a text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    still_answers(served)


def test_hundreds_of_broken_requests_give_no_5xx(served, caplog):
    rng, body = random.Random(11), json.dumps(FIELDS[0]).encode()
    post = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    heads = [
        post + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body),
        post + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body),
        b"GET /tasks HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\n",
    ]
    requests = [mutated(rng, heads[number % 3]) + mutated(rng, body) for number in range(400)]
    requests += [b"", b"\r\n\r\n", b"\x16\x03\x01" + bytes(range(256)), b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000,
                 b"GET %zz HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"FOO / HTTP/1.1\r\n\r\n",
                 b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                 b"POST /predict HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"]  # fmt: skip
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda sent: raw(served, sent), requests))
    statuses = {answer.split()[1] for answer in answers if answer}
    assert {b"200", b"400"} <= statuses
    assert all(status[:1] in (b"1", b"2", b"4") for status in statuses), statuses
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    still_answers(served)


def still_answers(served):
    answer = httpx.post(f"{served.url}/predict", json={"rows": PAIRS, "task": "rte"})
    assert answer.json() == {"predictions": as_json(served.model.predict(PAIRS, task=["rte"]))}
    assert 'status="5' not in httpx.get(f"{served.url}/metrics").text


def test_the_api_is_what_its_schema_says(trained, tmp_path):
    """Schemathesis makes requests from the schema, right ones and wrong ones, and compares every answer with it."""
    (tmp_path / "fuzz.toml").write_text(
        # whether a task reads one text or two, no schema can say: 422 is right there
        '[checks.positive_data_acceptance]\nexpected-statuses = ["2xx", 422]\n'
    )
    start = [
        sys.executable,
        "-c",
        "from schemathesis.cli import schemathesis; schemathesis()",
        "--config-file",
        "fuzz.toml",
    ]
    with serving(bam.load(trained.id, store=trained.store)) as found:
        words = ["run", f"{found.url}/openapi.json", "-n", "25", "--generation-deterministic", "--no-color"]
        done = subprocess.run([*start, *words], capture_output=True, text=True, timeout=100, check=False)
        counted = found.app.requests
        assert done.returncode == 0, done.stdout + done.stderr
        assert counted.labels("/predict", "200")._value.get() >= 10
        assert counted.labels("/predict", "422")._value.get() >= 10
