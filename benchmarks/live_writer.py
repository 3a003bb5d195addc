"""The writing process of `benchmarks.live`: timed writes, then a new index for every line on stdin."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from galleria.catalog.writer import CatalogWriter
from galleria.pipelines.build_index import build_index
from galleria.serving.retrieval.writer import MAINTENANCE_NICENESS

PAUSE_S = 0.02


def main(folder: Path, writes: int) -> None:
    """Write items, print when each was acknowledged, and build on demand."""
    writer = CatalogWriter(folder / "table")
    vector = np.zeros((1, writer.table.dimension), np.float32)
    vector[0, 0] = 1
    for number in range(writes):
        version = writer.put([{"id": f"new {number}", "title": str(time.time())}], vector).result().version
        print(json.dumps({"version": version, "acknowledged": time.time()}), flush=True)
        time.sleep(PAUSE_S)
    print(json.dumps("written"), flush=True)
    os.setpriority(os.PRIO_PROCESS, 0, MAINTENANCE_NICENESS)
    for _ in sys.stdin:
        build_index(writer.table, folder / "index")
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
