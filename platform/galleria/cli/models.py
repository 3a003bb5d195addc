"""`galleria convert`, `recipes`, `train`, `evaluate` and `embed`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galleria.cli.options import BundlePath, CategoryDepth, Columns, DataPath, GpuCount, parse_pairs, parse_source
from galleria.cli.progress import row_progress
from galleria.cli.read_options import (
    CategorySeparator,
    Delimiter,
    Encoding,
    Feed,
    FilesPath,
    Format,
    Images,
    Label,
    Levels,
    Quote,
    Videos,
    Whole,
    read_options,
)
from galleria.cli.terminal import AsJson, bold, console, print_json

if TYPE_CHECKING:
    from galleria.learn.metrics.score import Score


def convert(
    family: Annotated[str, typer.Argument(help="Name of the family that will read the rows.")],
    path: FilesPath,
    out: Annotated[Path, typer.Option(help="Folder to write parquet files to.")],
    column: Columns = [],  # noqa: B006
    level: Levels = [],  # noqa: B006
    label: Label = "category",
    videos: Videos = None,
    attribute: Annotated[
        list[str], typer.Option(help="A column to write too, for `embed --attribute`; NAME=number makes it a number.")
    ] = [],  # noqa: B006
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    quote: Quote = None,
    category_separator: CategorySeparator = None,
    feed: Feed = None,
    format_: Format = None,
    images: Images = None,
    whole: Whole = False,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep pictures in that are fetched by URL.")] = None,
    allow_private_addresses: Annotated[
        bool, typer.Option("--allow-private-addresses", help="Fetch URLs of this machine and its network, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Convert your files to the parquet that the other commands read."""
    from galleria.learn.family import load_family
    from galleria.media.fetch import FetchOptions
    from galleria.pipelines.convert import convert as run

    options = read_options(
        column,
        level,
        label,
        videos,
        delimiter,
        encoding,
        quote,
        category_separator,
        feed,
        attribute,
        format_,
        images,
        whole,
    )
    fetch = FetchOptions(cache=str(cache.absolute()) if cache else None, allow_private=allow_private_addresses)
    with row_progress("reading", as_json) as progress:
        count, rejects = run(path, load_family(family), options, out, fetch, progress)
    screen = console(as_json)
    for reject in rejects:
        if reject.kept:
            screen.print(f"note: {reject.reason}", markup=False, highlight=False, soft_wrap=True)
    rejected = sum(not reject.kept for reject in rejects)
    screen.print(f"{count:,} rows in {bold(out)}; {rejected} rows rejected: {bold(out.parent / 'rejects.jsonl')}")
    print_json(as_json, {"rows": count, "rejected": rejected, "path": str(out)})


def recipes(
    family: Annotated[str, typer.Argument(help="Name of a family, such as text_guided.")],
    as_json: AsJson = False,
) -> None:
    """List the recipes of a family, their arguments, and the fields that `train --set` changes."""
    import inspect
    from dataclasses import asdict

    from galleria.learn.recipes import recipe_fields, recipe_functions
    from galleria.report.tables import plain_table

    listed = [
        {
            "name": name,
            "options": list(inspect.signature(function).parameters),
            "about": (inspect.getdoc(function) or "").partition("\n")[0],
        }
        for name, function in recipe_functions(family).items()
    ]
    fields = recipe_fields(family)
    screen = console(as_json)
    rows = [(str(recipe["name"]), ", ".join(recipe["options"]), str(recipe["about"])) for recipe in listed]
    screen.print(plain_table(("recipe", "--option", "about"), rows))
    screen.print(plain_table(("--set", "default", "about"), [(f.name, f.default, f.description) for f in fields]))
    print_json(as_json, {"recipes": listed, "fields": [asdict(field) for field in fields]})


def train(
    family: Annotated[str, typer.Argument(help="Name of a family, such as text_guided.")],
    data: DataPath,
    out: Annotated[Path, typer.Option(help="Folder for the bundle, the checkpoints and the rejected rows.")],
    recipe: Annotated[
        str, typer.Option(help="Name of a recipe of the family, or file.py:function for one of your own.")
    ] = "paper",
    option: Annotated[list[str], typer.Option(help="An argument of the recipe: name=value.")] = [],  # noqa: B006
    set_: Annotated[
        list[str],
        typer.Option("--set", help="A field of the recipe: optimization.learning_rate=3e-4; `recipes` lists them."),
    ] = [],  # noqa: B006
    workers: Annotated[
        int | None, typer.Option(min=1, help="Training workers, with one GPU each; by default as many as --gpus, or 1.")
    ] = None,
    gpus: GpuCount = "auto",
    resume: Annotated[bool, typer.Option(help="Resume the run in --out.")] = False,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="Minutes between checkpoints in an epoch.")] = 30,
    column: Columns = [],  # noqa: B006
    category_depth: CategoryDepth = None,
    as_json: AsJson = False,
) -> None:
    """Train a family on your data: splits "train" and "validation"."""
    from galleria.learn.recipes import load_recipe
    from galleria.pipelines.gpus import parse_gpus
    from galleria.pipelines.train import train as run
    from galleria.report.progress import training_progress
    from galleria.report.tables import score_table

    loaded = load_recipe(family, recipe, parse_pairs(option, "--option"), parse_pairs(set_, "--set"))
    screen = console(as_json)
    requested = parse_gpus(gpus)
    if workers is None:
        workers = max(1, requested) if requested != "auto" else 1
    with training_progress(screen) as show:
        source = parse_source(data, column, category_depth)
        trained = run(
            loaded,
            source,
            out,
            workers=workers,
            gpus=requested,
            resume=resume,
            checkpoint_minutes=checkpoint_minutes,
            show=show,
            log=screen.print,
        )
    bundle = trained.bundle
    screen.print(score_table("Validation", {family: bundle.metrics}))
    screen.print(f"{len(trained.rejects)} rows rejected or used in part: {bold(out / 'rejects.jsonl')}")
    screen.print(f"bundle {bundle.hash[:12]} in {bold(bundle.path)}")
    print_json(as_json, {"bundle": str(bundle.path), "hash": bundle.hash, **_scores_as_json(bundle.metrics)})


def evaluate(
    bundle: BundlePath,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Rows to evaluate.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder for the rejected rows.")] = None,
    gpus: GpuCount = "auto",
    column: Columns = [],  # noqa: B006
    category_depth: CategoryDepth = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a bundle on one split; retrieval searches the gallery rows of all splits."""
    from galleria.learn.bundle import Bundle
    from galleria.pipelines.evaluate import evaluate as run
    from galleria.pipelines.gpus import parse_gpus
    from galleria.report.tables import score_table

    opened = Bundle.open(bundle)
    screen = console(as_json)
    source = parse_source(data, column, category_depth)
    with row_progress("predicting", as_json) as progress:
        scores = run(opened, source, split, out, gpus=parse_gpus(gpus), log=screen.print, progress=progress)
    screen.print(score_table(f"{opened.family.name} on {split}", {bundle.name: scores}))
    print_json(as_json, {"split": split, "hash": opened.hash, **_scores_as_json(scores)})


def embed(
    bundle: BundlePath,
    data: DataPath,
    out: Annotated[Path, typer.Option(help="Product table to create or to add to.")],
    attribute: Annotated[list[str], typer.Option(help="A column that searches can be filtered by.")] = [],  # noqa: B006
    to: Annotated[
        Path | None,
        typer.Option(help="File for all vectors of the table, too: .parquet, or .npy with the ids next to it."),
    ] = None,
    gpus: GpuCount = "auto",
    column: Columns = [],  # noqa: B006
    category_depth: CategoryDepth = None,
    as_json: AsJson = False,
) -> None:
    """Embed rows that are new or changed into a product table; rows with role "query" are left out."""
    from galleria.catalog.vector_files import check_vector_file, write_vectors
    from galleria.learn.bundle import Bundle
    from galleria.pipelines.embed import embed as run
    from galleria.pipelines.gpus import parse_gpus

    if to is not None:
        check_vector_file(to)
    source = parse_source(data, column, category_depth, attribute)
    screen = console(as_json)
    with row_progress("embedding", as_json) as progress:
        table, rejects = run(
            Bundle.open(bundle), source, out, gpus=parse_gpus(gpus), log=screen.print, progress=progress
        )
    count = table.key_map().count
    screen.print(
        f"{count:,} items in {bold(out)}, version {table.version}; "
        f"{len(rejects)} rows rejected or used in part: {bold(out.parent / 'rejects.jsonl')}"
    )
    if to is not None:
        write_vectors(table, to)
        screen.print(f"their vectors are in {bold(to)}")
    rejected = sum(not reject.kept for reject in rejects)
    print_json(as_json, {"items": count, "version": table.version, "rejected": rejected, "path": str(out)})


def _scores_as_json(scores: "Mapping[str, Score]") -> dict[str, Any]:
    from dataclasses import asdict

    return {"scores": {name: asdict(score) for name, score in scores.items()}}
