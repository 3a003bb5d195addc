"""Does text guidance help pictures find pictures? The demo's recipe with texts, without, and with shuffled texts.

    python -m benchmarks.text_guidance

About five minutes per run on two CPU cores; fifteen runs by default. Every run is saved to a file, so that an
interrupted measurement continues.

Claim (superiority): R@1 and mAP@R of "guided" over "pictures_only", lower bound of the 95 % interval > 0; the control
"shuffled" (every product has another one's text) must not be superior. The interval is of a paired bootstrap over the
test queries, each query averaged over seeds.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.results import Row, print_results

VARIANTS = ("pictures_only", "guided", "shuffled")
SOURCES = ("twemoji", "openmoji")
METRICS = ("R@1", "R@5", "mAP@R")
RESAMPLES = 2000


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 5,
    variants: Annotated[
        list[str], typer.Option("--variant", help="guided, pictures_only or shuffled; all by default.")
    ] = list(VARIANTS),  # noqa: B006
    folder: Annotated[Path, typer.Option(help="Folder for the catalogue and the runs.")] = Path("runs/benchmarks"),
) -> None:
    """Measure the runs that are missing, and print one JSON object."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = folder / "text_guidance.jsonl"
    finished = [json.loads(line) for line in runs.read_text().splitlines()] if runs.exists() else []
    for seed in range(seeds):
        for variant in variants:
            if any(run["variant"] == variant and run["seed"] == seed for run in finished):
                continue
            run = {"variant": variant, "seed": seed, "values": _run(variant, seed, folder)}
            finished.append(run)
            with runs.open("a") as file:
                file.write(json.dumps(run) + "\n")
    rows = [_row(run) for run in finished]
    print_results("text_guidance", [*rows, *_claims(finished)], {})


def _run(variant: str, seed: int, folder: Path) -> Mapping[str, list[float]]:
    """Train once; return "source/metric" → one value for each test query."""
    import pyarrow.parquet as pq
    import torch

    from galleria.demo.products import prepare_products
    from galleria.learn.examples import Examples
    from galleria.learn.family import load_family
    from galleria.learn.training.loop import TrainingState, fit
    from galleria.learn.training.sampling import chunks, training_batches

    data = folder / "whole.parquet"
    if not data.exists():
        prepare_products(data)
    torch.set_num_threads(os.cpu_count() or 1)
    recipe = _recipe(variant, seed, folder)
    rows = pq.read_table(data).to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    if variant == "shuffled":
        train = _with_shuffled_texts(train, seed)
    held_out = [row for row in rows if row["split"] == "validation"]
    family = load_family(recipe.family)
    context = family.context(recipe.model, train)
    torch.manual_seed(seed)
    task = family.build(context.config)
    examples = Examples(family, context, recipe.sampling.threads, _reject)
    size = recipe.sampling.batch_size
    task.warm_start(examples.stream(chunks(train, size)))
    state = TrainingState(task, recipe, len(train) // size * recipe.stopping.epochs)

    def batches(epoch: int) -> Any:
        groups = training_batches(train, recipe.sampling, np.random.default_rng((seed, epoch, 0)))
        return examples.stream(groups, (seed, epoch))

    def scores(task: Any) -> Any:
        return family.evaluate(
            [(batch, task.predict(batch)) for batch in examples.stream(chunks(held_out, size))], context.labels
        )

    for report in fit(task, recipe, batches, scores, state):
        typer.echo(f"{variant} {seed}: epoch {report.epoch}, R@1 {report.scores['R@1'].value:.3f}", err=True)
    return _values(state.evaluated.eval(), examples, rows, size)


def _values(task: Any, examples: Any, rows: Sequence[Any], size: int) -> Mapping[str, list[float]]:
    import torch

    from galleria.learn.metrics.retrieval import retrieval
    from galleria.learn.training.sampling import chunks

    evaluated = [row for row in rows if row["role"] == "gallery" or row["split"] == "test"]
    pictures = [{name: row[name] for name in ("id", "image", "product_id")} for row in evaluated]
    parts = [(task.predict(batch)["embedding"], batch["product"]) for batch in examples.stream(chunks(pictures, size))]
    vectors, keys = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    gallery = torch.tensor([row["role"] == "gallery" for row in evaluated])
    values: dict[str, list[float]] = {}
    for source in SOURCES:
        queries = torch.tensor([row["source"] == source for row in evaluated])
        scores = retrieval(vectors[queries], keys[queries], vectors[gallery], keys[gallery]).values
        values |= {f"{source}/{metric}": scores[metric].tolist() for metric in METRICS}
    return values


def _recipe(variant: str, seed: int, folder: Path) -> Any:
    from galleria.demo.weights import IMAGE_ARCHITECTURE, prepare_image_weights, text_model_folder
    from galleria.learn.recipes import load_recipe

    weights = folder / f"{IMAGE_ARCHITECTURE}.safetensors"
    if not weights.exists():
        prepare_image_weights(weights)
    options = {"image_weights": str(weights.resolve()), "text_model": str(text_model_folder())}
    recipe = load_recipe("text_guided", "demo", options)
    model = recipe.model
    if variant == "pictures_only":
        losses = model.losses.model_copy(update={"difference": 0.0, "text_softmax": 0.0, "alignment": 0.0})
        model = model.model_copy(update={"losses": losses})
    return recipe.model_copy(update={"seed": seed, "model": model})


def _with_shuffled_texts(rows: Sequence[Any], seed: int) -> list[Any]:
    texts = {row["product_id"]: row["text"] for row in rows}
    products = sorted(texts)
    others = np.random.default_rng(seed).permutation(products)
    swapped = {product: texts[other] for product, other in zip(products, others, strict=True)}
    return [row | {"text": swapped[row["product_id"]]} for row in rows]


def _row(run: Mapping[str, Any]) -> Row:
    means = {name: float(np.mean(values)) for name, values in run["values"].items()}
    return {"variant": run["variant"], "seed": run["seed"], **means}


def _claims(runs: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Yield each variant's gain over "pictures_only", on the seeds that both have."""
    values = {(run["variant"], run["seed"]): run["values"] for run in runs}
    for variant in ("guided", "shuffled"):
        seeds = sorted({seed for name, seed in values if name == variant and ("pictures_only", seed) in values})
        if not seeds:
            continue
        for score in values[variant, seeds[0]]:
            gains = np.mean(
                [np.subtract(values[variant, seed][score], values["pictures_only", seed][score]) for seed in seeds], 0
            )
            low, high = _interval(gains)
            yield {
                "claim": f"{variant} over pictures_only",
                "score": score,
                "seeds": len(seeds),
                "gain": float(gains.mean()),
                "low": low,
                "high": high,
                "superior": bool(low > 0),
            }


def _interval(gains: NDArray[np.float64]) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    means = [generator.choice(gains, len(gains)).mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _reject(row: Any, reason: str) -> None:
    raise SystemExit(f"{row['id']}: {reason}")


if __name__ == "__main__":
    typer.run(main)
