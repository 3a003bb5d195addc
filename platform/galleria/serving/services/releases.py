"""Follows the aliases of a folder of releases: a new release is ready before it replaces the old one."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from galleria.background import Background
from galleria.errors import ConfigurationError, GalleriaError, StorageError
from galleria.pipelines.releases import Alias, read_alias, write_alias
from galleria.serving.resolve import ReleaseRef
from galleria.serving.schemas.problems import ProblemError, unavailable, without_paths
from galleria.serving.services.traffic import LiveTraffic, ServedRelease
from galleria.serving.traffic_split import TrafficSplit

logger = logging.getLogger("ray.serve")

POLL_INTERVAL_S = 0.5
"""Between two reads of the folder."""

RETRY_INTERVAL_S = 5.0
"""Pause after a failure that may be temporary."""

RETRY_REJECTED_AFTER_S = 30.0
"""Time until a release that cannot be used is tried again: what it lacked may be there by then."""

EXCHANGE_TIMEOUT_S = 10.0
"""How long `set` waits for an exchange that is under way."""


class ReleaseFollower:
    """Sends the requests of each model name to the releases that its alias resolves to.

    Args:
        folder: of releases.
        traffic: of each model name; its splits are exchanged.
        resolve: (name, alias) → its releases, checked.
        make_ready: (name, release) → the release, once its model and catalogue are loaded everywhere.
        current: the aliases that `traffic` is at.
        exchange_timeout_s: how long `set` waits for an exchange that is under way.
        retry_rejected_after_s: time until a release that cannot be used is tried again.

    Attributes:
        current: the alias that each name's traffic is at.
        failing: why the alias of a name is not followed, by the names for which it is not.
    """

    def __init__(
        self,
        folder: Path,
        traffic: Mapping[str, LiveTraffic],
        resolve: Callable[[str, Alias], TrafficSplit[ReleaseRef]],
        make_ready: Callable[[str, ReleaseRef], ServedRelease],
        current: Mapping[str, Alias],
        exchange_timeout_s: float = EXCHANGE_TIMEOUT_S,
        retry_rejected_after_s: float = RETRY_REJECTED_AFTER_S,
    ) -> None:
        self._folder = folder
        self._traffic = traffic
        self._resolve = resolve
        self._make_ready = make_ready
        self._exchange_timeout_s = exchange_timeout_s
        self._retry_rejected_after_s = retry_rejected_after_s
        self._exchanging = threading.Lock()
        self._follower: Background | None = None
        self._rejected: dict[str, tuple[Alias, float]] = {}
        self.failing: dict[str, str] = {}
        self.current = dict(current)

    def follow(self) -> None:
        """Start to follow the folder in a thread, until the process ends."""
        stopped = threading.Event()

        def run() -> None:
            while not stopped.wait(POLL_INTERVAL_S):
                if not self.refresh():
                    stopped.wait(RETRY_INTERVAL_S)

        self._follower = Background("aliases", run, stopped.set)

    def close(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.end()

    def refresh(self) -> bool:
        """Exchange what the folder has changed; return whether no temporary failure is left to retry.

        An alias that cannot be used is logged once, and the old one stays in use.
        """
        complete = True
        for name in self._traffic:
            try:
                self._refresh(name)
            except Exception as error:  # what was served before stays in use
                self._fail(name, error, unexpected=not isinstance(error, StorageError | ProblemError))
                complete = False
        return complete

    def set(self, name: str, alias: Alias) -> None:
        """Point a name at other releases, here at once and everywhere soon; durable on return.

        Raises:
            ProblemError: 404, there is no such name; 422, the release cannot be used; 503, another exchange is under
                way, or a replica was lost. In each case nothing has changed.
            StorageError: the folder cannot be read or written.
        """
        if name not in self._traffic:
            known = ", ".join(sorted(self._traffic))
            raise ProblemError(
                404, "not-found", f"this service has no alias {name[:64]!r}, but {known}: a new one needs a new start"
            )
        if not self._exchanging.acquire(timeout=self._exchange_timeout_s):
            raise unavailable("another release is being made ready: try again")
        try:
            self._exchange(name, alias, lambda: write_alias(self._folder, name, alias))
        except StorageError:
            raise
        except GalleriaError as error:
            raise ProblemError(422, "unusable-release", without_paths(str(error))) from error
        finally:
            self._exchanging.release()

    def _refresh(self, name: str) -> None:
        with self._exchanging:  # an alias that is read before may have been set again when the exchange is done
            try:
                alias = read_alias(self._folder, name)
                if alias is None:
                    raise ConfigurationError(f"alias {name!r} is missing in {self._folder}: set it again")
                if alias == self.current[name]:
                    self._rejected.pop(name, None)
                    self.failing.pop(name, None)
                    return
                rejected, retry_at = self._rejected.get(name, (None, 0.0))
                if alias == rejected and time.monotonic() < retry_at:
                    return
                self._rejected[name] = alias, time.monotonic() + self._retry_rejected_after_s
                self._exchange(name, alias)
            except StorageError:
                self._rejected.pop(name, None)
                raise
            except GalleriaError as error:
                self._fail(name, error)
            except Exception:
                self._rejected.pop(name, None)
                raise

    def _fail(self, name: str, error: Exception, unexpected: bool = False) -> None:
        """Keep why an alias is not followed; log it, once."""
        if self.failing.get(name) != str(error):
            release = self.current[name].release
            logger.error(
                "alias %s cannot be used, %s stays in use: %s",
                name,
                release,
                error,
                exc_info=error if unexpected else None,
            )
        self.failing[name] = str(error)

    def _exchange(self, name: str, alias: Alias, commit: Callable[[], None] = lambda: None) -> None:
        """Make an alias's releases ready, call `commit`, and send requests to them."""
        traffic = self._traffic[name]
        before = {served.model.model.release: served for served in traffic.split.all}
        references = self._resolve(name, alias)
        ready = dict(before)
        with ExitStack() as undo:
            for reference in references.all:
                release = reference.model.release
                if release not in ready:
                    ready[release] = self._make_ready(name, reference)
                    undo.callback(ready[release].close)
            commit()
            undo.pop_all()
        traffic.split = references.map(lambda reference: ready[reference.model.release])
        self.current[name] = alias
        self._rejected.pop(name, None)
        self.failing.pop(name, None)
        logger.info("alias %s resolves to %s", name, alias)
        for served in before.values():
            if served not in traffic.split.all:
                served.close()


def alias_of(references: TrafficSplit[ReleaseRef]) -> Alias:
    """Return the alias that resolves to these releases."""
    releases = references.map(lambda reference: reference.model.release or "")
    return Alias(release=releases.main, canary=releases.canary, canary_weight=releases.canary_weight)
