"""Steps per second of training through Ray Train with one worker, against the same loop without Ray.

    python -m benchmarks.train_overhead

About ten minutes on two CPU cores.

Both train the same recipe on the same file in a process of their own with the same threads and allocator settings,
in turns. Counted are the training parts of all epochs but the first: from asking for an epoch's first batch to its
last step.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import Row, interleave, print_results, ratio


def main(
    data: Annotated[Path, typer.Option(help="Catalogue; written from the demo's packages if missing.")] = Path(
        "runs/benchmarks/products.parquet"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 3,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of a run; the first is not counted.")] = 4,
    only: Annotated[str, typer.Option(hidden=True, help="One run of this contestant, in this process.")] = "",
) -> None:
    """Measure, and print one JSON object."""
    if only:
        print(json.dumps({"ray": _with_ray, "bare": _without_ray}[only](data, epochs)))
        return
    if not data.exists():
        _prepare(data)
    rows: list[Row] = [
        {"contestant": name, "round": number, "steps_per_second": _run(name, data, epochs)}
        for number, name in interleave(("bare", "ray"), rounds)
    ]
    print_results("train_overhead", rows, {"ray_over_bare": ratio(rows, "steps_per_second", ["bare"], own="ray")})


def _prepare(data: Path) -> None:
    """Write a third of the demo's catalogue: 13 steps per epoch."""
    import pyarrow.parquet as pq

    from galleria.demo.products import prepare_products

    prepare_products(data)
    pq.write_table(pq.read_table(data).slice(0, 1600), data)


def _run(contestant: str, data: Path, epochs: int) -> float:
    from galleria.pipelines.train import WORKER_ENVIRONMENT

    command = [sys.executable, "-m", "benchmarks.train_overhead", "--only", contestant, "--data", str(data)]
    command += ["--epochs", str(epochs)]
    # What Ray sets for its workers, for both contestants.
    environment = os.environ | WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    completed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return float(json.loads(completed.stdout.splitlines()[-1]))


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
