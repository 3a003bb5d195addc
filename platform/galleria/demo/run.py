"""The demo: prepares the catalogue, trains, measures on unseen products, indexes, serves and checks itself."""

import contextlib
import importlib.metadata
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from galleria.demo.check import check_service
from galleria.demo.products import prepare_products
from galleria.demo.weights import prepare_image_weights, text_model_folder
from galleria.learn.bundle import Bundle
from galleria.learn.family import load_recipe
from galleria.learn.metrics import Score
from galleria.pipelines.build_index import build_index
from galleria.pipelines.cluster import ray_cluster
from galleria.pipelines.datasets import Source
from galleria.pipelines.embed import embed
from galleria.pipelines.evaluate import evaluate
from galleria.pipelines.train import train, untrained
from galleria.report.progress import training_progress
from galleria.report.tables import score_table
from galleria.serving.running import serving
from galleria.serving.schemas import ServiceArguments

FAMILY = "text_guided"
QUERIES = ("twemoji", "openmoji", "text")
METRICS = ("R@1", "R@5", "R@10", "mAP@R")
PACKAGES = ("galleria", "ray", "torch", "timm", "transformers", "faiss-cpu", "pylance")


@contextlib.contextmanager
def run_demo(out: Path, report: Path, port: int, console: Console) -> Iterator[str]:
    """Run all of it, write the report, and yield the address of the service while the block lasts.

    Args:
        out: folder for data, bundles, table and index; what an earlier demo left there is replaced.
        report: JSON file to write.
        port: port of the service on this machine.
        console: where progress goes.

    Raises:
        GalleriaError: a data package is missing, or a step or a check of the served answers failed.
    """
    start = time.monotonic()
    step = _Steps(console)
    with ray_cluster():
        step("catalogue: emoji as products, each drawn by three houses")
        source, weights = _prepare(out)
        step("baseline: the frozen backbone, as it comes from ImageNet")
        frozen = untrained(load_recipe(FAMILY, "frozen", {"image_weights": weights}), source, out / "frozen")
        scores = {"frozen": evaluate(frozen, source)}
        step("training: texts guide the picture encoder")
        trained = _train(out, source, weights, console)
        step("measuring on products that were never seen in training")
        scores["trained"] = evaluate(trained, source)
        step("embedding and indexing the catalogue")
        table, _ = embed(trained, source, out / "table.lance")
        manifest = build_index(table, out / "index")
        shown = [f"{query}/{metric}" for query in QUERIES for metric in METRICS]
        title = f"Unseen products against a gallery of {manifest.count:,}"
        console.print(score_table(title, scores, shown))
        step("serving")
        arguments = ServiceArguments(
            bundle=str(out / "bundle"), table=str(out / "table.lance"), index=str(out / "index")
        )
        with serving(arguments, "127.0.0.1", port) as address:
            checks = check_service(address, source, arguments)
            duration = time.monotonic() - start
            _write_report(report, scores, trained, manifest.count, duration, checks)
            console.print(f"[green]served answers verified[/green]; {duration:.0f} s in all; report in {report}")
            yield address


def _prepare(out: Path) -> tuple[Source, str]:
    data, weights = out / "data" / "products.parquet", out / "data" / "image.safetensors"
    prepare_products(data)
    prepare_image_weights(weights)
    return Source(str(data), category_depth=2), str(weights.resolve())


def _train(out: Path, source: Source, weights: str, console: Console) -> Bundle:
    for name in ("bundle", "checkpoints", "table.lance"):
        shutil.rmtree(out / name, ignore_errors=True)
    recipe = load_recipe(FAMILY, "demo", {"image_weights": weights, "text_model": str(text_model_folder())})
    with training_progress(console) as show:
        return train(recipe, source, out, show=show).bundle


def _write_report(
    path: Path,
    scores: Mapping[str, Mapping[str, Score]],
    trained: Bundle,
    gallery: int,
    duration: float,
    checks: Mapping[str, bool],
) -> None:
    room: dict[str, Any] = {
        model: {
            query: {metric: asdict(values[f"{query}/{metric}"]) for metric in METRICS}
            for query in QUERIES
            if f"{query}/R@1" in values
        }
        for model, values in scores.items()
    }
    report = {
        "rooms": {FAMILY: room},
        "queries": {query: room["trained"][query]["R@1"]["count"] for query in room["trained"]},
        "gallery": gallery,
        "duration_s": round(duration, 1),
        "checks": checks,
        "bundle": trained.hash,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


class _Steps:
    """Announces numbered steps."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.count = 0

    def __call__(self, text: str) -> None:
        self.count += 1
        self.console.print(f"[bold cyan]{self.count}[/bold cyan] {text}")
