"""Threads of this process: their names, and how the system schedules them."""

import gc
import os
import re
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "platform" / "galleria"
TASKS = Path("/proc/self/task")


class Scheduling(NamedTuple):
    policy: int
    """`os.SCHED_OTHER` unless somebody has asked for another one."""
    niceness: int


def scheduling(thread: int = 0) -> Scheduling:
    """Return how a thread of this process is scheduled; `thread` is its id in the system, 0 the calling thread."""
    return Scheduling(os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread))


def policies() -> dict[str, int]:
    """Return the scheduling policy of every thread of this process, by "name (id in the system)"."""
    found = {}
    for thread in sorted(int(task.name) for task in TASKS.iterdir()):
        try:
            found[f"{name_of(thread)} ({thread})"] = os.sched_getscheduler(thread)
        except ProcessLookupError:  # it has just ended
            continue
    return found


def name_of(thread: int) -> str:
    """Return a thread's name in Python, or in the system where Python does not know it."""
    for known in threading.enumerate():
        if known.native_id == thread:
            return known.name
    try:
        return (TASKS / str(thread) / "comm").read_text().strip()
    except OSError:
        return "ended"


def package_threads() -> set[str]:
    """Return the names that the package gives to its threads; executors add a number to them."""
    pattern = r"(?:ThreadPoolExecutor|Background)\([^\"]{0,100}\"([a-z]+)\""
    return {name for path in PACKAGE.rglob("*.py") for name in re.findall(pattern, path.read_text())}


class Leaks:
    """Finds threads of the package that outlive the test that they began in.

    Threads of an executor that is still in use belong to a service of a wider scope, which starts them when it needs
    them: these are to end with the session.
    """

    def __init__(self, grace_s: float = 5.0) -> None:
        self.grace_s = grace_s
        self._names = package_threads()
        self._executors: dict[threading.Thread, str] = {}

    def left(self, before: set[threading.Thread], test: str) -> list[str]:
        """Return the names of the threads that `test` has left behind, given those from before it."""
        started = [thread for thread in threading.enumerate() if thread not in before and self._is_ours(thread)]
        if not started:
            return []
        gc.collect()  # an executor that nobody holds ends its threads
        lasting = {thread: test for thread in started if executor_of(thread) is not None}
        self._executors |= lasting
        return sorted(thread.name for thread in self._alive(thread for thread in started if thread not in lasting))

    def left_by_session(self) -> list[str]:
        """Return the threads, and the tests that they began in, that would keep the process from ending."""
        gc.collect()
        for executor in filter(None, map(executor_of, self._executors)):
            executor.shutdown(wait=False)  # idle threads end, as they would with the interpreter
        return [f"{thread.name} of {self._executors[thread]}" for thread in self._alive(self._executors)]

    def _is_ours(self, thread: threading.Thread) -> bool:
        return re.split(r"[_-]\d", thread.name)[0] in self._names

    def _alive(self, threads: Iterable[threading.Thread]) -> list[threading.Thread]:
        end = time.monotonic() + self.grace_s
        alive = []
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                alive.append(thread)
        return alive


def executor_of(thread: threading.Thread) -> ThreadPoolExecutor | None:
    """Return the executor that a thread works for; None where it has none, or where nobody holds it any more."""
    first = next(iter(getattr(thread, "_args", ())), None)
    executor = first() if isinstance(first, weakref.ref) else None
    return executor if isinstance(executor, ThreadPoolExecutor) else None
