"""The demo: prepares real data, trains, evaluates on held-out data, indexes, serves and checks the service."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

import galleria
from galleria.demo.check import check_predictions, check_searches
from galleria.demo.families import TEXT_GUIDED, DemoFamily, DemoFolder
from galleria.demo.packages import check_packages
from galleria.index.manifest import current_manifest
from galleria.learn.bundle import Bundle
from galleria.learn.metrics.score import Score
from galleria.learn.recipe import Recipe
from galleria.learn.recipes import load_recipe
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

PACKAGES = ("ray", "torch", "timm", "transformers", "faiss-cpu", "pylance", "av")
HOST = "127.0.0.1"

Scores = Mapping[str, Mapping[str, Score]]
"""Model ("frozen", "trained") → its scores."""


@dataclass
class _Run:
    """State that the steps of one demo share."""

    folder: DemoFolder
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
    out: Path,
    report: Path,
    port: int,
    console: Console,
    families: Sequence[DemoFamily] = (),
    epochs: int | None = None,
    search: DemoFamily = TEXT_GUIDED,
) -> Iterator[str]:
    """Run every step, write the report, and yield the address of the service while the block lasts.

    Args:
        out: folder for data, bundles, tables and indexes; files of an earlier demo are replaced.
        report: JSON file to write; an HTML page of the same name is written next to it.
        port: port of the service on this machine.
        console: where progress is printed.
        families: families to train in addition to `search`, in the order of `demo.families`.
        epochs: maximum number of epochs of each training.
        search: family whose catalogue is served until the block ends.

    Raises:
        GalleriaError: a data package is missing, or a step or a check of the service's responses failed.
    """
    check_packages()
    run = _Run(DemoFolder(out), console, port, epochs)
    with ray_cluster():
        run.folder.prepare_weights()
        sources = {family.name: _train_family(run, family) for family in (search, *families)}
        searching = [name for name, bundle in run.bundles.items() if bundle.family.ranks]
        configs = {name: _index(run, name, sources[name]) for name in searching}
        for name in searching[1:]:
            run.say(f"serving {name}")
            with serving(configs[name], HOST, port) as address:
                run.checks |= check_searches(address, name, sources[name], configs[name])
        predicting = {name: bundle for name, bundle in run.bundles.items() if name not in searching}
        run.say(f"serving {', '.join([searching[0], *predicting])}")
        models = {name: str(bundle.path) for name, bundle in predicting.items()}
        config = configs[searching[0]].model_copy(update={"models": models})
        with serving(config, HOST, port) as address:
            run.checks |= check_searches(address, searching[0], sources[searching[0]], config)
            run.checks |= check_predictions(address, predicting, sources)
            duration = time.monotonic() - run.begin
            _write_report(report, run, duration, config)
            console.print(
                f"[green]served responses verified[/green]; {duration:.0f} s in all; see {report.with_suffix('.html')}"
            )
            yield address


def _train_family(run: _Run, family: DemoFamily) -> Source:
    """Prepare the data, train, and evaluate next to the baseline."""
    begin = time.monotonic()
    out = run.folder.path / family.name
    shutil.rmtree(out, ignore_errors=True)
    source = Source(str(run.folder.path / "data" / family.data_file), category_depth=family.category_depth)
    run.say(f"{family.name}: data")
    family.prepare(Path(source.path))
    run.say(f"{family.name}: the baseline, frozen pretrained features")
    recipe = _recipe(run, family, "frozen", family.baseline_options(run.folder))
    if family.trains_baseline:
        baseline = _train(run, recipe, source, out / "frozen")
    else:
        baseline = untrained(recipe, source, out / "frozen" / "bundle")
    scores = {"frozen": evaluate(baseline, source)}
    run.say(f"{family.name}: training, {family.description}")
    bundle = _train(run, _recipe(run, family, "demo", family.recipe_options(run.folder)), source, out)
    run.say(f"{family.name}: evaluating on held-out data")
    scores["trained"] = evaluate(bundle, source)
    run.console.print(score_table(f"{family.name}, held out", scores, list(family.displayed_scores) or None))
    run.scores[family.name] = scores
    run.bundles[family.name] = bundle
    run.seconds[family.name] = time.monotonic() - begin
    return source


def _recipe(run: _Run, family: DemoFamily, name: str, options: Mapping[str, Any]) -> Recipe[Any]:
    recipe = load_recipe(family.name, name, options)
    if run.epochs is None or recipe.stopping.epochs <= run.epochs:
        return recipe
    return recipe.model_copy(update={"stopping": recipe.stopping.model_copy(update={"epochs": run.epochs})})


def _train(run: _Run, recipe: Recipe[Any], source: Source, out: Path) -> Bundle:
    with training_progress(run.console) as show:
        return train(recipe, source, out, show=show).bundle


def _index(run: _Run, name: str, source: Source) -> ServiceConfig:
    """Embed and index the catalogue with a family's bundle."""
    run.say(f"{name}: embedding and indexing the catalogue")
    out = run.folder.path / name
    table, _ = embed(run.bundles[name], source, out / "table.lance")
    build_index(table, out / "index")
    return ServiceConfig(bundle=str(out / "bundle"), table=str(out / "table.lance"), index=str(out / "index"))


def _write_report(path: Path, run: _Run, duration: float, config: ServiceConfig) -> None:
    families = {
        family: {model: _nested(scores) for model, scores in models.items()} for family, models in run.scores.items()
    }
    trained = families[next(iter(families))]["trained"]
    manifest = current_manifest(Path(config.index))
    report = {
        "families": families,
        "queries": {query: trained[query]["R@1"]["count"] for query in trained if "R@1" in trained[query]},
        "gallery": manifest.count,
        "duration_s": round(duration, 1),
        "seconds": {family: round(seconds, 1) for family, seconds in run.seconds.items()},
        "checks": run.checks,
        "bundles": {family: bundle.hash for family, bundle in run.bundles.items()},
        "versions": {"galleria": galleria.__version__, **{package: version(package) for package in PACKAGES}},
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".html").write_text(report_page(report), encoding="utf-8")


def _nested(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Nest the scores: "twemoji/R@1" becomes ["twemoji"]["R@1"]; one without a group is under "all"."""
    nested: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        group, _, metric = name.rpartition("/")
        nested.setdefault(group or "all", {})[metric] = asdict(score)
    return nested
