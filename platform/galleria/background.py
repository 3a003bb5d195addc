"""Background threads that end before the interpreter does."""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable


class Background:
    """A thread that is stopped and joined at the end of the process, if not before.

    A daemon thread is not enough: one that is inside Lance or FAISS when the interpreter ends is unwound as soon as it
    requests the GIL, which native code does not allow, and the process dies with SIGABRT after all its work.

    Args:
        name: of the thread.
        run: function that the thread runs.
        stop: makes `run` return soon; may be called more than once.
    """

    def __init__(self, name: str, run: Callable[[], None], stop: Callable[[], None]) -> None:
        self._stop = stop
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()
        atexit.register(self.end)

    def end(self) -> None:
        """Stop the thread, and wait until it has ended."""
        self._stop()
        self._thread.join()
        atexit.unregister(self.end)


def lower_priority(niceness: int) -> None:
    """Lower the priority of this thread, and of those that it starts, on systems where threads have one.

    Args:
        niceness: added to the current niceness; the maximum is 19.
    """
    if sys.platform == "linux":  # elsewhere all threads of a process have one priority
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # not worth failing for
            niceness += os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, niceness))
