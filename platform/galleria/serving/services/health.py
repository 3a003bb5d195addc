"""The service's health: whether it can answer, and which of its components work less well than they should."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from galleria.serving.retrieval.searcher import Searcher
from galleria.serving.retrieval.writer import Writer, WriterStatus
from galleria.serving.schemas.problems import ProblemError, unavailable
from galleria.serving.schemas.responses import DegradedComponent
from galleria.serving.services.models import ModelService
from galleria.serving.services.releases import ReleaseFollower
from galleria.serving.services.traffic import LiveTraffic

COMPONENTS = ("aliases", "catalogue", "shards", "writer", "maintenance")

UNREADY_AFTER_S = 10.0
"""How long storage may fail before the service is not ready. After a moment, clients are not sent elsewhere."""

LAG_LIMIT_S = 30.0
"""Lag of the catalogue from which it is degraded. A follower that loads a large index lags, too."""

PENDING_LIMIT_S = 30.0
"""Age of a write from which the writer is degraded."""

MAINTENANCE_FAILURES = 3
"""Failures in a row from which maintenance is degraded."""

MAINTENANCE_LIMIT_S = 4 * 3600.0
"""Duration from which maintenance counts as stuck. An index of ten million items is built in well under an hour."""


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the service at one moment.

    Attributes:
        problem: why the service is not ready; None where it is.
        degraded: components that work less well than they should; responses are right all the same.
        shards: number of the main release's shards that respond.
        writers: of each release's catalogue, where the writer responds.
    """

    problem: ProblemError | None = None
    degraded: Sequence[DegradedComponent] = ()
    shards: int = 0
    writers: Sequence[WriterStatus] = ()


class HealthService:
    """Checks what a gateway needs to answer.

    Args:
        models: all models.
        search: traffic of the model that searches, if there is one.
        writer: of a service that writes.
        releases: of a service that follows aliases.
        draining: set once the service is about to end.
        unready_after_s: how long storage may fail before the service is not ready.
    """

    def __init__(
        self,
        models: ModelService,
        search: LiveTraffic | None,
        writer: Writer | None,
        releases: ReleaseFollower | None,
        draining: Event,
        unready_after_s: float = UNREADY_AFTER_S,
    ) -> None:
        self._models = models
        self._search = search
        self._writer = writer
        self._releases = releases
        self._draining = draining
        self._unready_after_s = unready_after_s

    async def check(self) -> Health:
        """Check every component."""
        if self._draining.is_set():
            return Health(unavailable("the service is about to end: send requests to another"))
        degraded = self._aliases()
        try:
            _, shards, writers = await asyncio.gather(
                self._models.describe(), self._check_catalogs(degraded), self._check_writer(degraded)
            )
        except ProblemError as problem:
            return Health(problem, degraded)
        return Health(None, degraded, shards, writers)

    def _aliases(self) -> list[DegradedComponent]:
        failing = self._releases.failing if self._releases is not None else {}
        return [
            DegradedComponent(
                component="aliases",
                problem=f"alias {name!r} cannot be followed, the previous release stays in use: see the service's log",
            )
            for name in failing
        ]

    async def _check_catalogs(self, degraded: list[DegradedComponent]) -> int:
        """Check the catalogues of all releases that may answer; return how many of the main one's shards respond."""
        split = self._search.split if self._search is not None else None
        if split is None or split.main.searcher is None:
            return 0
        main = split.main.searcher
        for served in split.all:
            if served.searcher is not None:
                self._check_catalog(served.searcher, served.searcher is main, degraded)
        responding, total = len(await main.shards()), main.catalog.state.shard_count
        if not responding:
            raise unavailable(f"none of {total} shards responds")
        if responding < total:
            problem = f"{responding} of {total} shards respond: results are partial"
            degraded.append(DegradedComponent(component="shards", problem=problem))
        return responding

    def _check_catalog(self, searcher: Searcher, is_main: bool, degraded: list[DegradedComponent]) -> None:
        status = searcher.catalog.status
        name = "the catalogue" if is_main else "the canary's catalogue"
        problem = ""
        if status.failing_s > self._unready_after_s:
            problem = f"{name} could not be read for {status.failing_s:.0f} s: see the service's log"
            if is_main:  # of most hits the fields are read for each request
                raise unavailable(problem)
        elif status.unreadable:
            problem = f"{name} has items that could not be read in the last minute: see the service's log"
        elif status.lag_s > LAG_LIMIT_S:
            problem = f"{name} is {status.lag_s:.0f} s behind its table"
        if problem:
            degraded.append(DegradedComponent(component="catalogue", problem=problem))

    async def _check_writer(self, degraded: list[DegradedComponent]) -> Sequence[WriterStatus]:
        if self._search is None or self._writer is None:
            return ()
        locations = [served.items.location for served in self._search.split.all if served.items is not None]
        try:
            statuses = await self._writer.status(locations)
        except ProblemError as problem:  # searches go on
            degraded.append(DegradedComponent(component="writer", problem=problem.detail))
            return ()
        for status in statuses:
            degraded += _writer_problems(status)
        return statuses


def _writer_problems(status: WriterStatus) -> list[DegradedComponent]:
    problems = []
    if not status.readable:
        problems.append(("writer", "the writer cannot read its table: see the service's log"))
    elif status.pending_s > PENDING_LIMIT_S:
        problems.append(("writer", f"a write has been waiting for {status.pending_s:.0f} s"))
    if status.maintenance_failures >= MAINTENANCE_FAILURES:
        problem = f"maintenance failed {status.maintenance_failures} times in a row: see the service's log"
        problems.append(("maintenance", problem))
    elif status.maintenance_s > MAINTENANCE_LIMIT_S:
        problems.append(("maintenance", f"maintenance has been running for {status.maintenance_s / 3600:.0f} hours"))
    return [DegradedComponent(component=component, problem=problem) for component, problem in problems]
