"""Requests to stop: Ctrl-C, or a scheduler's SIGTERM."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from sys import stderr


class StopTraining(Exception):  # a request, not an error
    """Raise it in a callback: `fit` writes a checkpoint and returns its
    result so far.
    """


class Interrupt:
    """The signal that has arrived, if any."""

    signal: int | None = None


@contextlib.contextmanager
def listening() -> Iterator[Interrupt]:
    """Note the first Ctrl-C or SIGTERM; the second acts as usual.

    The state is complete only between two dispatches. Only the main thread may listen;
    in other threads signals act as usual. After a SIGTERM the process ends when the
    block is left.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before: dict[int, signal._HANDLER] = {}

    def restore() -> None:
        while before:
            number, handler = before.popitem()
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        interrupt.signal = number
        print("\nstopping after this dispatch; once more to stop at once", file=stderr)
        restore()

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.getsignal(number)
            signal.signal(number, note)
        yield interrupt
    finally:
        restore()
        if interrupt.signal == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
