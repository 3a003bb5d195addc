"""Shows how far a command is: a bar on a terminal, a line now and then in a log; always on stderr."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from galleria.cli.terminal import console

if TYPE_CHECKING:
    from rich.console import Console

Show = Callable[[int, int | None], None]
"""Receives the number of rows that are done, and of all rows if it is known."""

LOG_INTERVAL_S = 30.0


@contextlib.contextmanager
def row_progress(what: str, quiet: bool = False) -> Iterator[Show]:
    """Yield a function that shows the number of rows, their rate and the time left.

    Args:
        what: what is done with them, such as "embedding".
        quiet: show nothing.
    """
    screen = console(quiet, stderr=True)
    if not screen.is_terminal:
        yield LoggedProgress(what, screen).show
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} rows, {task.fields[rate]:,.0f} a second"),
        TimeRemainingColumn(),
    )
    begin = time.monotonic()
    with Progress(*columns, console=screen, transient=True) as progress:
        bar = progress.add_task(what, total=None, rate=0.0)

        def show(done: int, total: int | None) -> None:
            progress.update(bar, completed=done, total=total, rate=done / max(time.monotonic() - begin, 1e-3))

        yield show


class LoggedProgress:
    """Writes a line every `LOG_INTERVAL_S`.

    Args:
        what: what is done with the rows.
        screen: where the lines are written.
        clock: returns seconds.
    """

    def __init__(self, what: str, screen: "Console", clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._screen = screen
        self._clock = clock
        self._begin = self._written = clock()

    def show(self, done: int, total: int | None) -> None:
        """Write how far it is, if the last line is old enough."""
        now = self._clock()
        if now - self._written < LOG_INTERVAL_S:
            return
        self._written = now
        rate = done / (now - self._begin)
        rest = f" of {total:,}, {(total - done) / rate:,.0f} s left" if total and rate else ""
        self._screen.print(f"{self._what}: {done:,} rows{rest}, {rate:,.1f} a second", highlight=False)
