"""Signals that ask for an end: Ctrl-C, SIGTERM, and what clusters send before a time limit.

In training they are obeyed at the end of the optimizer step, with a checkpoint; elsewhere at once, since a killed
process loses nothing but time. Only the main thread hears signals, so elsewhere these contexts do nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if name in signal.Signals.__members__
)


class Stopped(BaseException):
    """A signal ended the work, and the same command goes on.

    Not an ``Exception``: what handles errors must not take it for one. ``step`` is the optimizer step of the
    checkpoint that was written for it, if one was.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        super().__init__(number, step)
        self.signal, self.step = signal.Signals(number), step

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}{'' if self.step is None else f', saved after step {self.step}'}"

    @property
    def status(self) -> int:
        """Exit status by the shell's custom: 128 and the signal's number.

        >>> Stopped(signal.SIGINT).status
        130
        """
        return 128 + self.signal


class SignalListener:
    """Notes signals while its context is open, for the training loop to look at; ``signal`` is the first one.

    After that a Ctrl-C stops at once. Other signals may come as often as they like: clusters send several.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> SignalListener:
        self._before = _heard()
        self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _install(self._before)
        if kind is None and self.signal is not None:  # it came after the last step
            raise Stopped(self.signal)

    def listen(self) -> None:
        """Take the signals, again where somebody else has taken them meanwhile: Lightning does, for SIGTERM."""
        _install(dict.fromkeys(self._before, self._note))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker, which ends with its parent
            return
        if number == signal.SIGINT and self.signal is not None:
            raise Stopped(number)
        if self.signal is None:
            self.signal = signal.Signals(number)
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            # not print: it is not reentrant, and the signal may have come in the middle of one
            os.write(2, f"\n{self.signal.name}: finishes the optimizer step and saves{again}\n".encode())


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise ``Stopped`` where a signal arrives."""
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Stopped(number)

    before = _heard()
    _install(dict.fromkeys(before, stop))
    try:
        yield
    finally:
        _install(before)


def ignore_signals() -> None:
    """Leave the signals to another process, which will end this one."""
    if threading.current_thread() is threading.main_thread():
        _install(dict.fromkeys(SIGNALS, signal.SIG_IGN))


def ignore_sigterm_in_worker(_: int) -> None:
    """Let a loader's worker outlive a SIGTERM to all processes of a job: the step it works for must be finished.

    It ends with its parent all the same. PyTorch would have it die of the signal, and the training with it.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: None)


def _heard() -> dict[signal.Signals, Any]:
    """Return the handlers now of the signals to take: none that the caller has this process ignore (nohup, ``&``)."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    now = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in now.items() if handler is not signal.SIG_IGN}


def _install(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
