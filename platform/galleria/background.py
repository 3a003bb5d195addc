"""Threads that go on beside a service, and are over before the interpreter is."""

import atexit
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
    """Have this thread, and those that it starts, wait for others that want the cores; on Linux alone.

    Args:
        niceness: from 1 to 19, the most patient.
    """
    if sys.platform == "linux":  # elsewhere all threads of a process have one priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
