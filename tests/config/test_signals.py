"""Signals: noted in training, obeyed at once elsewhere, and given back; Ctrl-C of the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from bam_lightning.config.signals import SIGNALS, SignalListener, Stopped, ignore_sigterm_in_worker, raise_on_signal
from forked_python import python


@pytest.fixture(autouse=True)
def _heard():
    """Let this process hear all of them, as from a terminal; whoever runs the tests may have some ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> dict:
    return {number: signal.getsignal(number) for number in SIGNALS}


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_training_is_noted_and_said(number, capfd):
    before = handlers()

    def work():
        with SignalListener() as stop:
            assert stop.signal is None
            send(number)
            assert stop.signal is number  # and the work goes on
            assert handlers() != before
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert handlers() == before
    again = "; Ctrl-C again stops at once" if number is signal.SIGINT else ""
    assert capfd.readouterr().err == f"\n{number.name}: finishes the optimizer step and saves{again}\n"


def test_a_signal_after_the_last_step_is_not_lost():
    before = handlers()
    with pytest.raises(Stopped, match=r"^stopped by SIGUSR2$"), SignalListener():
        send(signal.SIGUSR2)
    assert handlers() == before


def test_a_second_ctrl_c_stops_at_once_and_other_signals_may_come_twice():
    seen = []

    def work(*numbers):
        with SignalListener() as stop:
            for number in numbers:
                send(number)
                seen.append(stop.signal)

    with pytest.raises(Stopped) as caught:
        work(signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    assert caught.value.status == 130
    assert seen == [signal.SIGINT, signal.SIGINT]  # the third was the end
    seen.clear()
    with pytest.raises(Stopped, match=r"^stopped by SIGTERM$"):
        work(signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2)
    assert seen == [signal.SIGTERM] * 3


@pytest.mark.parametrize("number", SIGNALS)
def test_elsewhere_a_signal_stops_at_once(number):
    before, went_on = handlers(), []

    def work():
        with raise_on_signal():
            send(number)
            went_on.append(number)

    with pytest.raises(Stopped) as caught:
        work()
    assert not went_on
    assert (caught.value.signal, caught.value.status) == (number, 128 + number)
    assert not isinstance(caught.value, Exception)
    assert handlers() == before


def test_contexts_nest_and_a_handler_that_was_taken_is_taken_back():
    with raise_on_signal():
        outer = handlers()
        with SignalListener() as stop:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Lightning does
            stop.listen()
            send(signal.SIGTERM)
            assert stop.signal is signal.SIGTERM
            stop.signal = None
        assert handlers() == outer


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with raise_on_signal(), SignalListener() as stop:
        send(signal.SIGINT)
    assert stop.signal is None


def test_only_the_main_thread_takes_signals():
    before, seen = handlers(), []

    def work():
        with SignalListener() as stop, raise_on_signal():
            stop.listen()
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, row):
        return row, os.getpid()


def test_a_loaders_worker_outlives_the_signals_of_its_job():
    with SignalListener() as stop:
        loader = torch.utils.data.DataLoader(
            Rows(), batch_size=None, num_workers=1, worker_init_fn=ignore_sigterm_in_worker
        )
        rows = iter(loader)
        seen = [next(rows)]
        for number in SIGNALS:
            os.kill(seen[0][1], number)
        time.sleep(0.2)
        seen += rows
        assert [row for row, _ in seen] == list(range(6))
        assert stop.signal is None  # the worker's copy of the handler is the worker's


@pytest.mark.release
def test_ctrl_c_saves_the_step_says_so_and_the_same_command_goes_on(tiny_job, tmp_path):
    words = [
        *[python(), "-m", "bam_lightning.train", "recipe=multi", *tiny_job],
        *["optimization.multi.epochs=40", "run.checkpoint_steps=50"],
    ]
    ours = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (found := list((tmp_path / "store" / "building").glob("*/last.ckpt"))):
        assert ours.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ours.send_signal(signal.SIGINT)
    _, said = ours.communicate(timeout=60)
    assert ours.returncode == 130, said
    step = torch.load(found[0], weights_only=True)["global_step"]
    assert "SIGINT: finishes the optimizer step and saves; Ctrl-C again stops at once" in said
    assert said.splitlines()[-1] == f"stopped by SIGINT, saved after step {step}; the same command goes on from there"
    assert "Traceback" not in said
    assert not list(Path(tmp_path, "store", "building").rglob("*.part"))
    again = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert f"goes on after step {step} of " in again.stderr
