"""Threads of this process: their names, and how the system schedules them."""

import os
import threading
from pathlib import Path
from typing import NamedTuple

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


def started_since(before: set[threading.Thread]) -> list[str]:
    """Return the names of Python's threads that are alive and not among `before` (`set(threading.enumerate())`)."""
    return sorted(thread.name for thread in threading.enumerate() if thread not in before and thread.is_alive())
