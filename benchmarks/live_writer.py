"""The writing process of `benchmarks.live`: timed writes, then a new index or many updates for a line on stdin."""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from galleria.catalog.writer import CatalogWriter
from galleria.pipelines.build_index import build_index
from galleria.pipelines.maintenance import Maintenance
from galleria.serving.retrieval.writer import MAINTENANCE_NICENESS

PAUSE_S = 0.02
PICTURE_BYTES = 4_000
UPDATES_A_CHECK = 100
"""Updates between two checks for maintenance. The service checks every five seconds."""


def main(folder: Path, writes: int) -> None:
    """Write items, print when each was acknowledged, and build and update on demand."""
    writer = CatalogWriter(folder / "table")
    items = writer.table.key_map().count
    vector = np.zeros((1, writer.table.dimension), np.float32)
    vector[0, 0] = 1
    for number in range(writes):
        version = writer.put([{"id": f"new {number}", "title": str(time.time())}], vector).result().version
        print(json.dumps({"version": version, "acknowledged": time.time()}), flush=True)
        time.sleep(PAUSE_S)
    print(json.dumps("written"), flush=True)
    os.setpriority(os.PRIO_PROCESS, 0, MAINTENANCE_NICENESS)
    for line in sys.stdin:
        command, _, count = line.partition(" ")
        if command == "update":
            print(json.dumps(_update(writer, folder / "index", items, int(count))), flush=True)
        else:
            build_index(writer.table, folder / "index")
    writer.close()


def picture(seed: int) -> bytes:
    """Return bytes that do not compress, in place of a picture."""
    return np.random.default_rng(seed).bytes(PICTURE_BYTES)


def _update(writer: CatalogWriter, index: Path, items: int, count: int) -> dict[str, Any]:
    """Update random items, one a commit, and return what was written, and what readers have to read."""
    chance = np.random.default_rng(2)
    maintenance = Maintenance(index, timedelta(days=7))
    written, put, max_files, max_stored = _written_bytes(), 0, 0, 0
    started = time.perf_counter()
    for number in range(count):
        vector = chance.standard_normal((1, writer.table.dimension)).astype(np.float32)
        vector /= np.linalg.norm(vector)
        item = {"id": str(chance.integers(items)), "image": picture(items + number), "title": str(number)}
        put += len(item["id"]) + len(item["image"]) + len(item["title"]) + vector.nbytes
        writer.put([item], vector).result()
        if number % UPDATES_A_CHECK == UPDATES_A_CHECK - 1:
            table = writer.table
            max_files = max(max_files, len(table.fragments))
            max_stored = max(max_stored, table.scan(("key",)).num_rows + sum(dead for _, dead in table.fragments))
            maintenance.run(table)
    newest = writer.table.latest()
    return {
        "updates": count,
        "seconds": time.perf_counter() - started,
        "bytes_put": put,
        "bytes_written": _written_bytes() - written,
        "max_files": max_files,
        "max_rows_over_items": max_stored / newest.key_map().count,
        "versions": len(newest.versions()),
    }


def _written_bytes() -> int:
    """Return how many bytes this process gave to write(2) since it began."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["wchar"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
