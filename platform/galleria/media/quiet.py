"""Silences Pillow's warnings while pictures are decoded, in however many threads."""

import contextlib
import threading
import warnings


class Quiet:
    """A context in which warnings raised inside Pillow are dropped.

    `warnings.catch_warnings` alone is not safe in threads: one that leaves late puts back another's filters.
    Here the first thread to enter sets the filter, and the last to leave takes it away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.close()


quiet_pillow = Quiet()
"""The one instance of this process: warning filters are the process's too."""
