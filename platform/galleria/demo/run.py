"""The demo: prepares real data, trains, measures on what was never seen, indexes, serves and checks itself."""

import contextlib
import importlib.metadata
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from galleria.demo.check import check_answers, check_searches
from galleria.demo.families import TEXT_GUIDED, Folder, Room
from galleria.index.manifest import current_manifest
from galleria.learn.bundle import Bundle
from galleria.learn.family import load_recipe
from galleria.learn.metrics.retrieval import Score
from galleria.learn.recipe import Recipe
from galleria.pipelines.build_index import build_index
from galleria.pipelines.cluster import ray_cluster
from galleria.pipelines.datasets import Source
from galleria.pipelines.embed import embed
from galleria.pipelines.evaluate import evaluate
from galleria.pipelines.train import train, untrained
from galleria.report.page import report_page
from galleria.report.progress import training_progress
from galleria.report.tables import score_table
from galleria.serving.config import ServiceConfig
from galleria.serving.run import serving

PACKAGES = ("galleria", "ray", "torch", "timm", "transformers", "faiss-cpu", "pylance", "av")
HOST = "127.0.0.1"

Scores = Mapping[str, Mapping[str, Score]]
"""Model ("frozen", "trained") → its scores."""


@dataclass
class _Run:
    """What the steps of one demo share."""

    folder: Folder
    console: Console
    port: int
    epochs: int | None
    begin: float = field(default_factory=time.monotonic)
    steps: int = 0
    scores: dict[str, Scores] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bundles: dict[str, Bundle] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)

    def say(self, text: str) -> None:
        self.steps += 1
        self.console.print(f"[bold cyan]{self.steps}[/bold cyan] {text}")


@contextlib.contextmanager
def run_demo(
    out: Path, report: Path, port: int, console: Console, others: Sequence[Room] = (), epochs: int | None = None
) -> Iterator[str]:
    """Run all of it, write the report, and yield the address of the service while the block lasts.

    Args:
        out: folder for data, bundles, tables and indexes; what an earlier demo left there is replaced.
        report: JSON file to write, and beside it the same as a page.
        port: port of the service on this machine.
        console: where progress goes.
        others: rooms beside product search, in the order of `demo.rooms`.
        epochs: train no longer than this.

    Raises:
        GalleriaError: a data package is missing, or a step or a check of the served answers failed.
    """
    run = _Run(Folder(out), console, port, epochs)
    rooms = (TEXT_GUIDED, *others)
    with ray_cluster():
        run.folder.prepare_weights()
        sources = {room.family: _train_room(run, room) for room in rooms}
        searching = [name for name, bundle in run.bundles.items() if bundle.family.ranks]
        services = {name: _index(run, name, sources[name]) for name in searching}
        for name in searching[1:]:
            run.say(f"serving {name}")
            with serving(services[name], HOST, port) as address:
                run.checks |= check_searches(address, name, sources[name], services[name])
        answering = {name: bundle for name, bundle in run.bundles.items() if name not in searching}
        run.say(f"serving {', '.join([searching[0], *answering])}")
        models = {name: str(bundle.path) for name, bundle in answering.items()}
        arguments = services[searching[0]].model_copy(update={"models": models})
        with serving(arguments, HOST, port) as address:
            run.checks |= check_searches(address, searching[0], sources[searching[0]], arguments)
            run.checks |= check_answers(address, answering, sources)
            duration = time.monotonic() - run.begin
            _write_report(report, run, duration, arguments)
            console.print(
                f"[green]served answers verified[/green]; {duration:.0f} s in all; see {report.with_suffix('.html')}"
            )
            yield address


def _train_room(run: _Run, room: Room) -> Source:
    """Prepare, train, and score beside the baseline."""
    begin = time.monotonic()
    out = run.folder.path / room.family
    shutil.rmtree(out, ignore_errors=True)
    source = Source(str(run.folder.path / "data" / room.data), category_depth=room.category_depth)
    run.say(f"{room.family}: data")
    room.prepare(Path(source.path))
    run.say(f"{room.family}: the baseline, features as they come")
    recipe = _recipe(run, room, "frozen", room.baseline(run.folder))
    if room.trains:
        baseline = _train(run, recipe, source, out / "frozen")
    else:
        baseline = untrained(recipe, source, out / "frozen" / "bundle")
    scores = {"frozen": evaluate(baseline, source)}
    run.say(f"{room.family}: training, {room.about}")
    bundle = _train(run, _recipe(run, room, "demo", room.options(run.folder)), source, out)
    run.say(f"{room.family}: measuring on what was never seen in training")
    scores["trained"] = evaluate(bundle, source)
    run.console.print(score_table(f"{room.family}, held out", scores, list(room.shown) or None))
    run.scores[room.family] = scores
    run.bundles[room.family] = bundle
    run.seconds[room.family] = time.monotonic() - begin
    return source


def _recipe(run: _Run, room: Room, name: str, options: Mapping[str, Any]) -> Recipe[Any]:
    recipe = load_recipe(room.family, name, options)
    if run.epochs is None or recipe.stopping.epochs <= run.epochs:
        return recipe
    return recipe.model_copy(update={"stopping": recipe.stopping.model_copy(update={"epochs": run.epochs})})


def _train(run: _Run, recipe: Recipe[Any], source: Source, out: Path) -> Bundle:
    with training_progress(run.console) as show:
        return train(recipe, source, out, show=show).bundle


def _index(run: _Run, name: str, source: Source) -> ServiceConfig:
    """Embed and index the catalogue with a room's bundle."""
    run.say(f"{name}: embedding and indexing the catalogue")
    out = run.folder.path / name
    table, _ = embed(run.bundles[name], source, out / "table.lance")
    build_index(table, out / "index")
    return ServiceConfig(bundle=str(out / "bundle"), table=str(out / "table.lance"), index=str(out / "index"))


def _write_report(path: Path, run: _Run, duration: float, arguments: ServiceConfig) -> None:
    rooms = {
        family: {model: _nested(scores) for model, scores in models.items()} for family, models in run.scores.items()
    }
    trained = rooms[TEXT_GUIDED.family]["trained"]
    manifest = current_manifest(Path(arguments.index))
    report = {
        "rooms": rooms,
        "queries": {query: trained[query]["R@1"]["count"] for query in trained if "R@1" in trained[query]},
        "gallery": manifest.count,
        "duration_s": round(duration, 1),
        "seconds": {family: round(seconds, 1) for family, seconds in run.seconds.items()},
        "checks": run.checks,
        "bundles": {family: bundle.hash for family, bundle in run.bundles.items()},
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".html").write_text(report_page(report), encoding="utf-8")


def _nested(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """The score "twemoji/R@1" as ["twemoji"]["R@1"]; one of everything stands under "all"."""
    nested: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        group, _, metric = name.rpartition("/")
        nested.setdefault(group or "all", {})[metric] = asdict(score)
    return nested
