"""How fast `convert` reads a table: over pyarrow's own reading and writing of it.

    python -m benchmarks.convert

About a minute on two CPU cores. The table names a million videos, which are not opened, so that what is measured is the
table. Both contestants write the same columns as parquet, after a first table of ten rows that loads all modules.
"pyarrow" takes the types, the delimiter and the encoding as given, checks nothing and holds the whole table in memory.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.results import Row, interleave, print_results, ratio

COLUMNS = ("id", "video", "title", "split")


def main(
    rows: Annotated[int, typer.Option(min=1, help="Rows of the table.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 5,
) -> None:
    """Measure, and print one JSON object."""
    measured: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "table.csv"
        _write(table, rows)
        _write(table.with_name("small.csv"), 10)
        for number, name in interleave(("own", "pyarrow"), rounds):
            command = [sys.executable, "-m", __spec__.name, name, str(table), str(Path(scratch) / f"{name}-{number}")]
            result = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            measured.append({"contestant": name, "round": number, **json.loads(result)})
    print_results("convert", measured, {"seconds_over_pyarrow": ratio(measured, "seconds", ["pyarrow"])})


def own(table: Path, out: Path) -> None:
    """Convert the table; print the seconds and the peak of memory as JSON."""
    from galleria.learn.family import load_family
    from galleria.pipelines.convert import convert
    from galleria.pipelines.readers import ReadOptions

    family = load_family("video_event")
    convert(str(table.with_name("small.csv")), family, ReadOptions(), out.with_name(f"{out.name}-small"))
    begin = time.perf_counter()
    convert(str(table), family, ReadOptions(), out)
    _print(time.perf_counter() - begin)


def pyarrow(table: Path, out: Path) -> None:
    """Read and write the table with pyarrow alone; print the same."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    options = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(COLUMNS, pa.string()), null_values=[""], strings_can_be_null=True
    )
    pq.write_table(pa_csv.read_csv(table.with_name("small.csv"), convert_options=options), out)
    begin = time.perf_counter()
    pq.write_table(pa_csv.read_csv(table, convert_options=options), out)
    _print(time.perf_counter() - begin)


def _write(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write(",".join(COLUMNS) + "\n")
        for row in range(rows):
            split = ("train", "validation", "test")[row % 3]
            title = f'"Clip {row}, of {row % 97}"' if row % 5 == 0 else f"Clip {row}"
            file.write(f"{row:08},s3://videos/{row % 1000}/{row}.mp4,{title},{split}\n")


def _print(seconds: float) -> None:
    print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))


if __name__ == "__main__":
    contestants = {"own": own, "pyarrow": pyarrow}
    if sys.argv[1:2] and sys.argv[1] in contestants:
        contestants[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        typer.run(main)
