"""Silences Pillow's warnings while pictures are decoded, in however many threads."""

import contextlib
import threading
import warnings


class SuppressedWarnings:
    """A context in which warnings raised inside Pillow are dropped.

    `warnings.catch_warnings` alone is not safe in threads: one that leaves late restores another's filters.
    Here the first thread to enter sets the filter, and the last to leave removes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._filters = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._filters.close()


quiet_pillow = SuppressedWarnings()
"""The one instance of this process: warning filters are the process's too."""
