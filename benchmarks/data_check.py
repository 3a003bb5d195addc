"""How long `galleria data check` takes: over decoding the same pictures once.

    python -m benchmarks.data_check

Two minutes on two CPU cores. The pictures are JPEG files as cameras make them, in a folder. "decoding" opens each with
Pillow in its full size, one after the other, and does nothing else.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.results import Row, interleave, print_results, ratio


def main(
    pictures: Annotated[int, typer.Option(min=10, help="Pictures in the folder.")] = 2_000,
    side: Annotated[int, typer.Option(min=64, help="Width of a picture, in pixels.")] = 800,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 3,
) -> None:
    """Measure, and print one JSON object."""
    measured: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        _write(folder, pictures, side)
        for number, name in interleave(("own", "decoding"), rounds):
            command = [sys.executable, "-m", __spec__.name, name, str(folder)]
            result = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            measured.append({"contestant": name, "round": number, **json.loads(result)})
    print_results("data_check", measured, {"seconds_over_decoding": ratio(measured, "seconds", ["decoding"])})


def own(folder: Path) -> int:
    """Check the folder; return the number of rows."""
    from galleria.learn.family import load_family
    from galleria.pipelines.data_check.check import check_data
    from galleria.pipelines.readers import ReadOptions

    return check_data(str(folder), load_family("category_tree"), ReadOptions()).rows


def decoding(folder: Path) -> int:
    """Decode each picture; return how many."""
    files = sorted(folder.rglob("*.jpg"))
    for file in files:
        with Image.open(file) as image:
            image.convert("RGB")
    return len(files)


def _write(folder: Path, pictures: int, side: int) -> None:
    generator = np.random.default_rng(0)
    for number in range(pictures):
        coarse = Image.fromarray(generator.integers(0, 256, (side // 16, side // 12, 3), np.uint8))
        path = folder / ("train", "validation", "test")[number % 3] / f"class {number % 20}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((side, 3 * side // 4), Image.Resampling.BICUBIC).save(path, quality=90)


if __name__ == "__main__":
    contestants = {"own": own, "decoding": decoding}
    if sys.argv[1:2] and sys.argv[1] in contestants:
        begin = time.perf_counter()
        count = contestants[sys.argv[1]](Path(sys.argv[2]))
        print(json.dumps({"seconds": time.perf_counter() - begin, "pictures": count}))
    else:
        typer.run(main)
