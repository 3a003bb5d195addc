"""Writes to the catalogues of all releases that may answer, apart from HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from galleria.catalog.items import item_key
from galleria.catalog.writer import ContentChangedError, WriteResult
from galleria.errors import ReleaseChangedError
from galleria.media.limits import Limits
from galleria.serving.audit import Origin
from galleria.serving.retrieval.image_reader import ImageReader, ReadImage
from galleria.serving.retrieval.writer import Writer
from galleria.serving.schemas.problems import invalid_field
from galleria.serving.schemas.responses import ItemResult, WriteResponse, milliseconds
from galleria.serving.services.items import ItemService, PreparedItem, without_vector
from galleria.serving.services.traffic import LiveTraffic

Prepared = Sequence[PreparedItem | ItemResult]


class WriteService:
    """Puts items and deletes them, in the catalogue of the main release and in the canary's.

    Args:
        traffic: the releases that may answer now; all of them have a catalogue.
        writer: writes.
        images: reads pictures that items name by URI.
        limits: on a request.
    """

    def __init__(self, traffic: LiveTraffic, writer: Writer, images: ImageReader, limits: Limits) -> None:
        self._traffic = traffic
        self._writer = writer
        self._images = images
        self._limits = limits

    async def put(self, items: Sequence[Mapping[str, Any]], started: float, origin: Origin) -> WriteResponse:
        """Put items, each as its JSON; one that cannot be used does not stop the others.

        Raises:
            ProblemError: 422, too many items; 429, too many requests with an `image_uri`; 503, the model or the writer
                cannot be reached; nothing is acknowledged then.
            CatalogFullError: the disk is full; nothing is written.
            ReleaseChangedError: the alias resolves to a release that is not loaded here yet.
        """
        if len(items) > self._limits.batch_items:
            raise invalid_field("items", f"are {len(items)}, over the limit of {self._limits.batch_items}")
        if any(item.get("image_uri") is not None for item in items):
            async with self._images.request() as read_image:
                return await self._put(items, started, origin, read_image)
        return await self._put(items, started, origin)

    async def delete(self, item_id: str, started: float, origin: Origin) -> WriteResponse:
        """Delete one item; its status is "absent" where there is none, as after a deletion whose response was lost.

        Raises:
            ProblemError: 503, the writer cannot be reached.
            DataError: the id cannot be used.
            ReleaseChangedError: as `put`.
        """
        item_key(item_id)

        async def write(services: Sequence[ItemService]) -> WriteResponse:
            [written, *_] = await self._writer.delete([service.location for service in services], [item_id], origin)
            return _response(services, written.version, [ItemResult(id=item_id, status=written.statuses[0])], started)

        return await self._with_current_releases(write)

    async def _put(
        self, items: Sequence[Mapping[str, Any]], started: float, origin: Origin, read_image: ReadImage | None = None
    ) -> WriteResponse:
        async def write(services: Sequence[ItemService]) -> WriteResponse:
            prepared = await _prepare(services, items, read_image)
            try:
                written = await self._write(services, prepared, origin)
            except ContentChangedError:  # this gateway sees an older version of a table than the writer
                prepared = await asyncio.gather(*map(ItemService.with_vectors, services, prepared))
                written = await self._write(services, prepared, origin)
            return _response(services, written[0].version, _results(services, prepared, written), started)

        return await self._with_current_releases(write)

    async def _with_current_releases(
        self, write: Callable[[Sequence[ItemService]], Awaitable[WriteResponse]]
    ) -> WriteResponse:
        """Write to the releases that may answer; again, where this gateway has exchanged them meanwhile."""
        while True:
            split = self._traffic.split
            by_table = {served.items.location.table: served.items for served in reversed(split.all) if served.items}
            try:
                return await write([*reversed(by_table.values())])
            except ReleaseChangedError:
                if self._traffic.split is split:
                    raise

    async def _write(
        self, services: Sequence[ItemService], prepared: Sequence[Prepared], origin: Origin
    ) -> Sequence[WriteResult]:
        """Write the items that are not rejected, in one request; return the results of each release's catalogue.

        Raises:
            ContentChangedError: one without a vector has changed; nothing is written to its catalogue.
        """
        puts = [service.put(items) for service, items in zip(services, prepared, strict=True)]
        if not any(put.items for put in puts):
            return [WriteResult(services[0].version, ()) for _ in services]
        return await self._writer.put(puts, origin)


async def _prepare(
    services: Sequence[ItemService], items: Sequence[Mapping[str, Any]], read_image: ReadImage | None
) -> Sequence[Prepared]:
    """Return the items for each catalogue; an item that the main release rejects is in none."""
    rows = await services[0].check(items, read_image)
    models = [service.location.bundle_hash for service in services]
    main, *others = await asyncio.gather(
        *(
            service.prepare(rows if model == models[0] else [without_vector(row) for row in rows])
            for service, model in zip(services, models, strict=True)
        )
    )
    return [main] + [
        [first if isinstance(first, ItemResult) else item for first, item in zip(main, other, strict=True)]
        for other in others
    ]


def _results(
    services: Sequence[ItemService], prepared: Sequence[Prepared], written: Sequence[WriteResult]
) -> list[ItemResult]:
    """Return the results of the main release, with the reasons for which other releases lack an item."""
    results = []
    for first, *others in zip(*map(_catalogue_results, prepared, written), strict=True):
        problems = [
            f"it is not in the catalogue of {service.release}: {other.problem}"
            for service, other in zip(services[1:], others, strict=True)
            if other.status == "rejected" and first.status != "rejected"
        ]
        results.append(first.model_copy(update={"problem": first.problem or "; ".join(problems) or None}))
    return results


def _catalogue_results(prepared: Prepared, written: WriteResult) -> list[ItemResult]:
    """Return the results of one catalogue."""
    indexed = iter(enumerate(written.statuses))
    results = []
    for item in prepared:
        if not isinstance(item, ItemResult):
            index, status = next(indexed)
            item = ItemResult(id=item.row["id"], status=status, problem=written.problems.get(index))  # noqa: PLW2901
        results.append(item)
    return results


def _response(
    services: Sequence[ItemService], version: int, results: list[ItemResult], started: float
) -> WriteResponse:
    return WriteResponse(
        version=version,
        releases=[service.release for service in services if service.release is not None],
        items=results,
        latency_ms=milliseconds(time.perf_counter() - started),
    )
