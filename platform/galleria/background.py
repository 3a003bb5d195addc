"""Threads that go on beside a service, and are over before the interpreter is."""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable


class Background:
    """A thread of its own, which is told to stop, and waited for, at the end of the process at the latest.

    A daemon thread alone would not do: one that is inside Lance or FAISS when the interpreter goes is unwound as soon
    as it wants the GIL back, which native code does not allow, and the process dies with SIGABRT after all its work.

    Args:
        name: of the thread.
        run: its work.
        stop: makes `run` return soon; may be called more than once.
    """

    def __init__(self, name: str, run: Callable[[], None], stop: Callable[[], None]) -> None:
        self._stop = stop
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()
        atexit.register(self.end)

    def end(self) -> None:
        """Stop it, and wait until it has."""
        self._stop()
        self._thread.join()
        atexit.unregister(self.end)


def lower_priority(niceness: int) -> None:
    """Have this thread, and those that it starts, wait for others that want the cores, where the system can do so.

    Args:
        niceness: how much more patient than now; the most patient is 19.
    """
    if sys.platform == "linux":  # elsewhere all threads of a process have one priority
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # it is not worth failing for
            patience = os.getpriority(os.PRIO_PROCESS, thread) + niceness
            os.setpriority(os.PRIO_PROCESS, thread, min(19, patience))
