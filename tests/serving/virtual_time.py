"""An event loop whose clock jumps to the next timer, so that tests of timeouts do not wait."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(timeout if timeout is None else 0)
        if not events and timeout is not None:
            self.skipped_s += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Do not use it with threads: the clock jumps while they work."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return super().time() + self._virtual.skipped_s


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
