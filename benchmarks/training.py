"""Training: what a second worker adds, what pairs across workers cost, and what Ray Train costs.

    python -m benchmarks.training

About half an hour on two CPU cores.

Contestants train the demo's recipe on the same file in turns, in processes of their own. Counted are the training parts
of all epochs but the first, from asking for an epoch's first batch to its last step, and the validation after each.

- "1 worker", "2 workers": without Ray, a core and a thread for each worker; rates are those of all workers together.
- "2 workers, own rows": each computes its loss from its own rows, without those of the other.
- "bare", "ray": one worker on all cores, without Ray and through Ray Train and Ray Data, with the same threads and
  allocator settings.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import Row, interleave, print_results, ratio
from benchmarks.training_workers import split, work

WORKERS = {"1 worker": (1, False), "2 workers": (2, False), "2 workers, own rows": (2, True)}
RAY = ("bare", "ray")
BATCH = 48
"""Rows of a worker's batch, where workers are compared."""


def main(
    data: Annotated[Path, typer.Option(help="Catalogue; written from the demo's packages if missing.")] = Path(
        "runs/benchmarks/products.parquet"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 3,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of a run; the first is not counted.")] = 3,
    rows: Annotated[int, typer.Option(min=2 * BATCH, help="Training rows, where workers are compared.")] = 576,
    contestants: Annotated[str, typer.Option(help="Those to run, separated by semicolons.")] = ";".join(
        (*WORKERS, *RAY)
    ),
    only: Annotated[str, typer.Option(hidden=True, help="One run of this contestant, in this process.")] = "",
) -> None:
    """Measure, and print one JSON object."""
    if only in WORKERS:
        print(json.dumps(_with_workers(data, epochs, rows, *WORKERS[only])))
        return
    if only:
        print(json.dumps({"steps_per_second": {"ray": _with_ray, "bare": _without_ray}[only](data, epochs)}))
        return
    if not data.exists():
        _prepare(data)
    _recipe(epochs)  # writes the weights
    options = ["--data", str(data), "--epochs", str(epochs), "--rows", str(rows)]
    results: list[Row] = []
    for number, name in interleave(contestants.split(";"), rounds):
        results.append({"contestant": name, "round": number, **_run(name, options)})
        print(json.dumps(results[-1]), file=sys.stderr)
    print_results("training", results, _ratios(results))


def _ratios(rows: Sequence[Row]) -> dict[str, list[float]]:
    def over(value: str, own: str, other: str) -> list[float]:
        return ratio(rows, value, [other], own=own)

    return {
        "workers_2_over_1": over("training_rows_per_second", "2 workers", "1 worker"),
        "validation_2_over_1": over("validation_rows_per_second", "2 workers", "1 worker"),
        "gathered_over_local_step": over("steps_per_second", "2 workers", "2 workers, own rows"),
        "ray_over_bare": over("steps_per_second", "ray", "bare"),
    }


def _prepare(data: Path) -> None:
    """Write a third of the demo's catalogue: 13 steps per epoch."""
    import pyarrow.parquet as pq

    from galleria.demo.products import prepare_products

    prepare_products(data)
    pq.write_table(pq.read_table(data).slice(0, 1600), data)


def _run(contestant: str, options: Sequence[str]) -> Row:
    from galleria.pipelines.train import WORKER_ENVIRONMENT

    command = [sys.executable, "-m", "benchmarks.training", "--only", contestant, *options]
    # What Ray sets for its workers, for all contestants.
    environment = os.environ | WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    completed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    rates: Row = json.loads(completed.stdout.splitlines()[-1])
    return rates


def _with_workers(data: Path, epochs: int, rows: int, workers: int, local: bool) -> Row:
    recipe = _recipe(epochs)
    recipe = recipe.model_copy(
        update={"sampling": recipe.sampling.model_copy(update={"batch_size": BATCH, "threads": 1})}
    )
    tables = {"train": split(data, "train", rows), "validation": split(data, "validation", rows)}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rates.json"
        processes = [
            context.Process(target=work, args=(rank, workers, local, recipe, tables, out)) for rank in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        rates: Row = json.loads(out.read_bytes())
    return rates


def _recipe(epochs: int) -> Any:
    """Return the demo's recipe with a number of epochs."""
    from galleria.demo.weights import IMAGE_ARCHITECTURE, prepare_image_weights, text_model_folder
    from galleria.learn.recipes import load_recipe

    weights = Path("runs/benchmarks") / f"{IMAGE_ARCHITECTURE}.safetensors"
    if not weights.exists():
        prepare_image_weights(weights)
    options = {"image_weights": str(weights.resolve()), "text_model": str(text_model_folder())}
    recipe = load_recipe("text_guided", "demo", options)
    return recipe.model_copy(update={"stopping": recipe.stopping.model_copy(update={"epochs": epochs})})


def _with_ray(data: Path, epochs: int) -> float:
    from galleria.pipelines.datasets import Source
    from galleria.pipelines.train import train

    with tempfile.TemporaryDirectory() as scratch:
        trained = train(_recipe(epochs), Source(str(data)), Path(scratch) / "run")
    return _rate(trained.reports)


def _without_ray(data: Path, epochs: int) -> float:
    import numpy as np
    import pyarrow.parquet as pq
    import torch

    from galleria.learn.examples import Examples
    from galleria.learn.family import load_family
    from galleria.learn.training.loop import TrainingState, fit
    from galleria.learn.training.sampling import chunks, training_batches

    recipe = _recipe(epochs)
    torch.set_num_threads(os.cpu_count() or 1)
    rows = [row for row in pq.read_table(data).to_pylist() if row["split"] == "train"]
    held_out = [row for row in pq.read_table(data).to_pylist() if row["split"] == "validation"]
    family = load_family(recipe.family)
    context = family.context(recipe.model, rows)
    task = family.build(context.config)
    size = recipe.sampling.batch_size
    examples = Examples(
        family, context, recipe.sampling.threads, lambda row, reason: sys.exit(f"{row['id']}: {reason}")
    )
    state = TrainingState(task, recipe, len(rows) // size * epochs)

    def batches(epoch: int) -> Any:
        groups = training_batches(rows, recipe.sampling, np.random.default_rng((recipe.seed, epoch)))
        return examples.stream(groups, (recipe.seed, epoch))

    def scores(task: Any) -> Any:
        pairs = [(batch, task.predict(batch)) for batch in examples.stream(chunks(held_out, size))]
        return family.evaluate(pairs, context.labels)

    return _rate(list(fit(task, recipe, batches, scores, state)))


def _rate(reports: Any) -> float:
    counted = reports[1:]
    return float(sum(report.steps for report in counted) / sum(report.seconds for report in counted))


if __name__ == "__main__":
    typer.run(main)
