"""Pictures and video clips per second of the own input path, against a DataLoader and a bare PyAV loop.

    python -m benchmarks.ingest

About a quarter of an hour on two CPU cores.

Pictures: 2,000 JPEG files of 256 px, five times over, decoded and fitted to 112 px by the same `example`, in batches
of 96. A pass is that long because the steady state is measured: Ray Data's processes start while the first batches
come, and take CPU time from the decoding. Ours streams the encoded bytes out of parquet through Ray Data and decodes
in two threads, as a training worker does (and no pass is cached for the next), or has tasks do it ("cluster");
PyTorch's DataLoader has two worker processes, which read one file per picture, or ("memory") have all bytes in memory.

Clips: the demo's H.264 files, sampled by the same stream, against a loop over PyAV that decodes every file from its
begin, converts the same number of frames to RGB at the same size, and does nothing else, in two threads, too.

All have the environment of a training worker. Contestants take turns. A rate counts what comes after the first tenth
of a pass; `start_s` is the wait for the first batch.
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.results import Row, interleave, print_results, ratio

PICTURES = 2000
COPIES = 5
IMAGE_SIZE = 256
SIZE = 112
BATCH = {"text_guided": 96, "video_event": 8}
THREADS = 2

Batches = Callable[[], Iterator[int]]
"""A pass over the data: yields the number of samples of each batch."""

RATIOS = {
    "pictures_over_dataloader": ("pictures_ray", "pictures_dataloader"),
    "pictures_over_dataloader_in_memory": ("pictures_ray", "pictures_memory"),
    "pictures_on_cluster_over_worker": ("pictures_cluster", "pictures_ray"),
    "frames_over_bare": ("clips_ray", "clips_bare"),
}


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 5,
    passes: Annotated[int, typer.Option(min=1, help="Passes over the data in one turn.")] = 1,
    media: Annotated[list[str], typer.Option(help="pictures or clips; both by default.")] = ["pictures", "clips"],  # noqa: B006
) -> None:
    """Measure, and print one JSON object."""
    from galleria.pipelines.cluster import ray_cluster
    from galleria.pipelines.train import WORKER_ENVIRONMENT

    if not WORKER_ENVIRONMENT.items() <= os.environ.items():  # glibc reads it when a process starts
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, **WORKER_ENVIRONMENT})
    with tempfile.TemporaryDirectory() as scratch, ray_cluster():
        contestants: dict[str, Batches] = {}
        if "pictures" in media:
            contestants |= _picture_contestants(Path(scratch))
        if "clips" in media:
            contestants |= _clip_contestants(Path(scratch))
        rows: list[Row] = [
            {"contestant": name, "round": number, **_measure(contestants[name], passes)}
            for number, name in interleave(contestants, rounds)
        ]
    ratios = {name: ratio(rows, "per_second", [other], own=own) for name, (own, other) in RATIOS.items()}
    print_results("ingest", rows, ratios)


def _picture_contestants(scratch: Path) -> dict[str, Batches]:
    pictures = scratch / "pictures.parquet"
    _write_pictures(pictures)
    return {
        "pictures_ray": _with_ray(pictures, "text_guided"),
        "pictures_cluster": _with_ray(pictures, "text_guided", on_cluster=True),
        "pictures_dataloader": _with_dataloader(pictures, scratch / "files"),
        "pictures_memory": _with_dataloader(pictures, None),
    }


def _clip_contestants(scratch: Path) -> dict[str, Batches]:
    from galleria.demo.clips import prepare_clips

    clips = scratch / "clips.parquet"
    prepare_clips(clips)
    return {"clips_ray": _with_ray(clips, "video_event"), "clips_bare": _with_pyav(clips)}


def _measure(batches: Batches, passes: int) -> dict[str, float]:
    """Measure samples per second after the first tenth of each pass, and the mean wait for its first batch."""
    waited = elapsed = 0.0
    counted = 0
    for _ in range(passes):
        begin = time.perf_counter()
        counts, times = [], []
        for count in batches():
            counts.append(count)
            times.append(time.perf_counter())
        skipped = max(1, len(counts) // 10)
        counted += sum(counts[skipped:])
        elapsed += times[-1] - times[skipped - 1]
        waited += times[0] - begin
    return {"per_second": counted / elapsed, "start_s": waited / passes}


def _with_ray(data: Path, family_name: str, on_cluster: bool = False) -> Batches:
    """Read as a training worker does: rows from Ray Data, examples in its own threads or by tasks on the cluster."""
    from galleria.learn.examples import Examples
    from galleria.learn.family import load_family
    from galleria.learn.training.sampling import chunks
    from galleria.pipelines.cluster_examples import ClusterExamples
    from galleria.pipelines.datasets import ProductDataset, Source
    from galleria.pipelines.worker_shard import WorkerShard

    family = load_family(family_name)
    dataset = ProductDataset(Source(str(data)), family)
    context = family.context(_config(family_name), dataset.rows("train"))
    examples = (ClusterExamples if on_cluster else Examples)(family, context, THREADS, _reject)
    shard = WorkerShard(dataset.stream("train").iterator(), max_rows=0)

    def batches() -> Iterator[int]:
        for batch in examples.stream(chunks(shard, BATCH[family_name])):
            yield len(next(iter(batch.values())))

    return batches


class _Pictures(Dataset[Any]):
    """The same rows and the same `example` as a map-style dataset; with a folder, images are files there."""

    def __init__(self, data: Path, folder: Path | None) -> None:
        from galleria.learn.family import load_family

        self.rows = pq.read_table(data, columns=["id", "image", "product_id"]).to_pylist()
        self.folder = folder
        self.family = load_family("text_guided")
        self.context = self.family.context(_config("text_guided"), self.rows)
        if folder is not None:
            folder.mkdir()
            for row in self.rows:
                (folder / row["product_id"]).write_bytes(row.pop("image"))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Any:
        row = self.rows[position]
        if self.folder is not None:
            row = row | {"image": (self.folder / row["product_id"]).read_bytes()}
        return self.family.example(row, self.context, None)


def _with_dataloader(data: Path, folder: Path | None) -> Batches:
    pictures = _Pictures(data, folder)

    def batches() -> Iterator[int]:
        loader: DataLoader[Any] = DataLoader(pictures, BATCH["text_guided"], num_workers=THREADS)
        for batch in loader:
            yield len(batch["pixels"])

    return batches


def _with_pyav(data: Path) -> Batches:
    import av

    config = _config("video_event")
    files = [row["video"] for row in pq.read_table(data).to_pylist() if row["split"] == "train"]

    def decode(file: str) -> int:
        frames = 0
        with av.open(file) as container:
            for frame in container.decode(video=0):
                if frames < config.frames and (frame.time or 0.0) * config.rate >= frames:
                    frame.to_ndarray(format="rgb24", width=config.size, height=config.size)
                    frames += 1
        return 1

    def batches() -> Iterator[int]:
        size = BATCH["video_event"]
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(files), size):
                yield sum(pool.map(decode, files[start : start + size]))

    return batches


def _write_pictures(path: Path) -> None:
    """Write JPEGs of noise over colour gradients, about as costly to decode as photographs."""
    generator = np.random.default_rng(0)
    grid = np.linspace(0, 1, IMAGE_SIZE)[:, None, None]
    rows: list[dict[str, Any]] = []
    for _ in range(PICTURES):
        one, other = generator.uniform(0, 255, (2, 3))
        canvas = one * grid + other * grid.transpose(1, 0, 2) + generator.normal(0, 12, (IMAGE_SIZE, IMAGE_SIZE, 1))
        encoded = io.BytesIO()
        Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=90)
        rows.append({"image": encoded.getvalue(), "product_id": str(len(rows)), "split": "train"})
    copies = [{"id": f"{copy} {row['product_id']}", **row} for copy in range(COPIES) for row in rows]
    pq.write_table(pa.Table.from_pylist(copies), path, compression="none", row_group_size=500)


def _config(family: str) -> Any:
    from galleria.learn.recipes import load_recipe

    return load_recipe(family, "debug").model.model_copy(update={"size": SIZE})


def _reject(row: Any, reason: str) -> None:
    raise SystemExit(f"{row['id']}: {reason}")


if __name__ == "__main__":
    typer.run(main)
