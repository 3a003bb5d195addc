"""The bare loop of `benchmarks.serving`: images are decoded in threads, embedded in batches and searched."""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BATCH = 16


def main(bundle: str, folder: str, seconds: float) -> None:
    """Print images per second as JSON."""
    import faiss
    import numpy as np

    from galleria.learn.bundle import Bundle
    from galleria.serving.config import SEARCH, BundleLocation
    from galleria.serving.inference.model import LoadedModel

    faiss.omp_set_num_threads(1)
    compute_pool, decode_pool = ThreadPoolExecutor(1), ThreadPoolExecutor(2)
    model = LoadedModel(
        BundleLocation(bundle, Bundle.open(bundle).hash), SEARCH, compute_pool, os.cpu_count() or 1, "auto"
    )
    index = faiss.read_index(str(Path(folder, "image.index")))
    pictures = [file.read_bytes() for file in sorted(Path(folder, "pictures").iterdir())]
    batches = [
        [{"image": data} for data in pictures[start : start + BATCH]] for start in range(0, len(pictures), BATCH)
    ]
    for end in (time.perf_counter() + 1, time.perf_counter() + 1 + seconds):  # the first warms up
        processed, begun = 0, time.perf_counter()
        while time.perf_counter() < end:
            for batch in batches:
                outcomes = model.predict(list(decode_pool.map(model.read, batch)))
                index.search(np.stack([outcome.answer["embedding"] for outcome in outcomes if outcome.answer]), 10)
                processed += len(batch)
        per_second = processed / (time.perf_counter() - begun)
    print(json.dumps({"per_second": per_second}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
