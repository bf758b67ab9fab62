"""Questions answered together: each gets its own answer, and one at fault fails alone."""

import asyncio
import json
import threading

import numpy as np
import pytest

import bam_lightning as bam
from bam_lightning.config.exceptions import ServingError
from bam_lightning.inference.serving.batcher import Batcher, ClosedError, QueueFullError, predict_batch
from bam_lightning.inference.serving.schemas import PredictRequest
from conftest import sentences

TASKS = [["rte"], ["stsb"], ["stsb", "rte"], ["rte", "stsb"]]


def close(ours, theirs):
    assert list(ours) == list(theirs)
    for task in ours:
        assert len(ours[task]) == len(theirs[task])
        for one, other in zip(ours[task], theirs[task], strict=True):
            assert list(one.probabilities) == list(other.probabilities)
            numbers = [list(said.probabilities.values()) or [said.label] for said in (one, other)]
            np.testing.assert_allclose(*numbers, atol=1e-5)  # float32, padded to another length


@pytest.mark.parametrize("seed", range(5))
def test_questions_answered_together_are_those_of_predict(trained, seed):
    model, rng = bam.load(trained.id, store=trained.store), np.random.default_rng(seed)
    texts = iter(sentences(400, seed, longest=25))
    questions = []
    for _ in range(20):
        width, count = rng.integers(1, 3), rng.integers(1, 5)
        rows = [tuple(next(texts) for _ in range(width)) for _ in range(count)]
        questions.append(PredictRequest(rows, ["sst2"] if width == 1 else TASKS[rng.integers(4)]))
    for question, said in zip(questions, predict_batch(model, questions), strict=True):
        told = json.loads(said)["predictions"]
        told = {task: [bam.Prediction(**one) for one in rows] for task, rows in told.items()}
        close(told, model.predict(question.rows, task=question.tasks))


def echo(questions):
    if any(row == ("poison",) for one in questions for row in one.rows):
        raise RuntimeError("out of memory")
    return [{task: [row[0] for row in one.rows] for task in one.tasks} for one in questions]


def ask(batcher, *rows):
    return batcher.submit(PredictRequest([(row,) for row in rows], ["t"]))


class Gate:
    """Answers that wait until the gate is opened, and remember how many questions came together."""

    def __init__(self):
        self.begun, self.open, self.sizes = threading.Event(), threading.Event(), []

    def __call__(self, questions):
        self.begun.set()
        assert self.open.wait(30)
        self.sizes.append(len(questions))
        return echo(questions)


def within(work):
    """Return what ``work`` returns, or fail where an answer never comes."""
    return asyncio.run(asyncio.wait_for(work, 30))


async def begin(batcher, gate, row):
    first = ask(batcher, row)
    await asyncio.to_thread(gate.begun.wait, 30)
    return first


def test_what_arrives_while_the_model_works_is_the_next_batch_up_to_its_bound():
    gate = Gate()

    async def main():
        with Batcher(gate, batch=3, queue=100) as batcher:
            first = await begin(batcher, gate, "a")
            rest = [
                ask(batcher, "b"),
                ask(batcher, "c", "d"),
                ask(batcher, "e"),
                ask(batcher, *"fghij"),
                ask(batcher, "k"),
            ]
            assert batcher.waiting == 10
            gate.open.set()
            said = await asyncio.gather(first, *rest)
            return said, batcher.rows, batcher.batches, batcher.waiting

    said, *counts = within(main())
    assert ["".join(one["t"]) for one in said] == ["a", "b", "cd", "e", "fghij", "k"]
    assert gate.sizes == [1, 2, 1, 1, 1]  # 1 row; 1 + 2; 1, since 5 more are too many; 5, a question is not cut; 1
    assert counts == [11, 5, 0]


def test_a_full_queue_refuses_and_an_empty_one_takes_a_question_of_any_size():
    gate = Gate()

    async def main():
        with Batcher(gate, batch=8, queue=4) as batcher:
            first = await begin(batcher, gate, "a")
            large = ask(batcher, *"bcdefg")
            with pytest.raises(QueueFullError):
                ask(batcher, "h")
            gate.open.set()
            await asyncio.gather(first, large)
            assert (await ask(batcher, "h"))["t"] == ["h"]

    within(main())


def test_only_the_question_at_fault_fails():
    gate = Gate()

    async def main():
        with Batcher(gate, batch=8, queue=8) as batcher:
            waiting = [await begin(batcher, gate, "a"), ask(batcher, "b"), ask(batcher, "poison"), ask(batcher, "c")]
            gate.open.set()
            return await asyncio.gather(*waiting, return_exceptions=True)

    a, b, poison, c = within(main())
    assert (a["t"], b["t"], c["t"]) == (["a"], ["b"], ["c"])
    assert isinstance(poison, RuntimeError)
    assert str(poison) == "out of memory"


def test_a_panic_of_an_extension_fails_its_question_only():
    class Panic(BaseException):
        """What pyo3 raises where Rust panics."""

    def panicking(questions):
        if any(row == ("poison",) for one in questions for row in one.rows):
            raise Panic("index out of bounds")
        return echo(questions)

    async def main():
        with Batcher(panicking, batch=8, queue=8) as batcher:
            with pytest.raises(RuntimeError, match=r"^Panic: index out of bounds$"):
                await ask(batcher, "poison")
            assert batcher.alive
            return await ask(batcher, "a")

    assert within(main())["t"] == ["a"]


def test_what_a_process_that_ended_was_asked_is_asked_once_more_and_then_one_by_one():
    asked = []

    def ending(questions):
        asked.append([row[0] for one in questions for row in one.rows])
        if len(asked) == 1 or ["poison"] in [[row[0] for row in one.rows] for one in questions]:
            raise ServingError("the model's process has ended")
        return echo(questions)

    async def main():
        with Batcher(ending, batch=8, queue=8) as batcher:
            first = await ask(batcher, "a")
            rest = await asyncio.gather(ask(batcher, "b"), ask(batcher, "poison"), return_exceptions=True)
            return first, *rest

    a, b, poison = within(main())
    assert (a["t"], b["t"]) == (["a"], ["b"])
    assert isinstance(poison, ServingError)
    assert asked == [["a"], ["a"], ["b", "poison"], ["b", "poison"], ["b"], ["poison"]]


def test_a_model_that_does_not_end_does_not_hold_up_the_end():
    gate = Gate()

    async def main():
        with Batcher(gate, batch=1, queue=8, close_seconds=0.1) as batcher:
            await begin(batcher, gate, "a")
            ask(batcher, "b")
        gate.open.set()
        return batcher

    assert not within(main()).alive


def test_leaving_answers_what_waits_and_takes_nothing_more():
    gate = Gate()

    async def main():
        with Batcher(gate, batch=1, queue=8) as batcher:
            waiting = [await begin(batcher, gate, "a"), ask(batcher, "b"), ask(batcher, "c")]
            gate.open.set()
        with pytest.raises(ClosedError):
            ask(batcher, "d")
        return await asyncio.gather(*waiting)

    assert [one["t"] for one in within(main())] == [["a"], ["b"], ["c"]]


def test_a_client_that_went_away_stops_no_other():
    gate = Gate()

    async def main():
        with Batcher(gate, batch=8, queue=8) as batcher:
            first, gone, last = await begin(batcher, gate, "a"), ask(batcher, "b"), ask(batcher, "c")
            gone.cancel()
            gate.open.set()
            return await first, await last

    assert [one["t"] for one in within(main())] == [["a"], ["c"]]
