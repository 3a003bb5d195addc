"""A filter for loggers of what may happen with every request, so that clients cannot fill the log."""

import logging
import time
from collections import Counter
from collections.abc import Callable

INTERVAL_S = 1.0


class RateFilter(logging.Filter):
    """Passes one record of a kind in a second, with the number of those before it that were left out.

    A record's kind is its attribute `kind` (`extra={"kind": …}`), which has few values.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._passed_at: dict[str, float] = {}
        self._omitted: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        kind: str = getattr(record, "kind", "")
        now = self._clock()
        if now - self._passed_at.get(kind, -INTERVAL_S) < INTERVAL_S:
            self._omitted[kind] += 1
            return False
        self._passed_at[kind] = now
        if omitted := self._omitted.pop(kind, 0):
            record.msg = f"{record.msg} ({omitted} more like it were not logged)"
        return True
