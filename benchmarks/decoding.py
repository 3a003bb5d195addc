"""What it costs to decode uploads in a child process: pictures and clips per second with it, over without.

    python -m benchmarks.decoding

About five minutes on two CPU cores. Each contestant is a process of its own with one model, two threads that decode
and one that runs the network, as a replica of the service has them. "own" decodes in child processes, "in_process" in
the threads themselves. `memory_mb` is the private memory of one child.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import Row, interleave, matching, print_results, ratio

THREADS = 2
BATCH = 16
CLIPS = 8
FAMILIES = {"pictures_256": "text_guided", "pictures_1600": "text_guided", "clips": "video_event"}
"""Kind of input → family of the model. The pictures are JPEG files of so many pixels a side."""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 5,
    seconds: Annotated[float, typer.Option(help="Length of one turn.")] = 6.0,
) -> None:
    """Measure, and print one JSON object."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for inputs, family in FAMILIES.items():
            folder = Path(scratch) / inputs
            _prepare(folder, inputs, family)
            for number, name in interleave(("own", "in_process"), rounds):
                command = [sys.executable, "-m", __spec__.name, "turn", str(folder), inputs, name, str(seconds)]
                result = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
                rows.append({"inputs": inputs, "contestant": name, "round": number, **json.loads(result)})
    ratios = {
        f"{inputs}_over_in_process": ratio(matching(rows, inputs=inputs), "per_second", ["in_process"])
        for inputs in FAMILIES
    }
    print_results("decoding", rows, ratios)


def turn(folder: Path, inputs: str, contestant: str, seconds: float) -> None:
    """Run one contestant; print its result as JSON."""
    from galleria.learn.bundle import Bundle
    from galleria.media.isolated import IsolatedDecoder, Kind, decoder_pool
    from galleria.serving.config import SEARCH, BundleLocation
    from galleria.serving.inference.model import LoadedModel

    kind: Kind = "video" if inputs == "clips" else "image"
    decoder = IsolatedDecoder(60, 60) if contestant == "own" else None
    decode, predict = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(1)
    location = BundleLocation(str(folder / "bundle"), Bundle.open(folder / "bundle").hash)
    name = "events" if kind == "video" else SEARCH
    model = LoadedModel(location, name, predict, threads=THREADS, runtime="auto", decoder=decoder)
    data = [file.read_bytes() for file in sorted((folder / "files").iterdir())]
    rows: list[Row] = [{kind: content} for content in data]
    for _ in range(2):
        waiting = [decode.submit(model.read, row) for row in rows]
        done, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < seconds:  # the next batch is decoded during the network
            examples = [example.result() for example in waiting]
            waiting = [decode.submit(model.read, row) for row in rows]
            outcomes = predict.submit(model.predict, examples).result()
            assert all(outcome.answer is not None for outcome in outcomes)
            done += len(rows)
    result: dict[str, Any] = {"per_second": done / elapsed}
    if decoder is not None:
        with decoder_pool().process(kind) as process:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        private = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private")]
        result["memory_mb"] = sum(private) / 1000
    print(json.dumps(result))


def _prepare(folder: Path, inputs: str, family_name: str) -> None:
    """Save a bundle with the demo's network and random weights, and the files that it is to read."""
    import numpy as np
    import pyarrow.parquet as pq
    import torch
    from PIL import Image

    from galleria.learn.bundle import save_bundle
    from galleria.learn.family import load_family
    from galleria.learn.recipes import load_recipe

    (folder / "files").mkdir(parents=True)
    rows: list[Row]
    if inputs == "clips":
        from galleria.demo.clips import clips, write_clips

        write_clips(itertools.islice(clips(), CLIPS), folder / "clips.parquet")
        rows = pq.read_table(folder / "clips.parquet").to_pylist()
        for number, row in enumerate(rows):
            (folder / "files" / str(number)).write_bytes(Path(row["video"]).read_bytes())
    else:
        side = int(inputs.split("_")[1])
        generator = np.random.default_rng(0)
        for number in range(BATCH):
            coarse = Image.fromarray(generator.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
            coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / "files" / str(number), "JPEG")
        rows = [{"product_id": str(number), "text": "a thing", "source": "", "role": ""} for number in range(BATCH)]
    family = load_family(family_name)
    context = family.context(load_recipe(family_name, "frozen", {"image_weights": "none"}).model, rows)
    torch.manual_seed(0)
    save_bundle(folder / "bundle", family, context, family.build(context.config).eval(), {}, "# A benchmark\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["turn"]:
        turn(Path(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]))
    else:
        typer.run(main)
