"""SIGTERM and SIGINT: stop between two batches, and in any case soon."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from embedmigrate.engine.job import StopSignal

STOP_SECONDS = 20.0
"""How long a command may take to stop by itself."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(exit_code: int) -> tuple[StopSignal, Callable[[], None]]:
    """A signal that the job asks for, and a function that ends the listening.

    A thread listens, because Python runs handlers between two steps of the main thread only, and
    that may be deep in a build or wait for a lock. What has not stopped ``STOP_SECONDS`` later is
    left where it is, with ``exit_code``: nothing is lost, as every step survives kill -9.
    """
    stop, over = StopSignal(), threading.Event()
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    handlers = {number: signal.signal(number, _leave_it_to_the_thread) for number in _SIGNALS}
    before = signal.set_wakeup_fd(sender)

    def listen() -> None:
        while (received := os.read(receiver, 1)) and received[0] not in _SIGNALS:
            pass  # somebody else's
        os.close(receiver)
        if received:
            stop.set(signal.Signals(received[0]).name)
            if not over.wait(STOP_SECONDS):
                os._exit(exit_code)

    def end() -> None:
        over.set()
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(sender)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    return stop, end


def _leave_it_to_the_thread(_number: int, _frame: object) -> None:
    pass
