"""`galleria …`: every verb calls one function of the package. Exit codes: 0 done, 1 refused or failed, 2 misused."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from galleria.cli.catalogue import index, items
from galleria.cli.terminal import AsJson, console, print_json
from galleria.errors import ConfigurationError, GalleriaError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"auto_envvar_prefix": "GALLERIA"},  # GALLERIA_SERVE_TABLE is --table of serve, and so on
    help="Train, evaluate, index and serve visual-understanding models for catalogues.",
)

app.add_typer(index, name="index")
app.add_typer(items, name="items")

DataPath = Annotated[str, typer.Argument(help="Parquet file, or folder of them.")]
BundlePath = Annotated[Path, typer.Argument(help="Folder of a trained bundle.")]
Columns = Annotated[list[str], typer.Option("--column", help="Where a column has another name: galleria's=yours.")]
CategoryDepth = Annotated[int | None, typer.Option(min=1, help="Reject rows whose category path has another length.")]


@app.command()
def data(
    out: Annotated[Path, typer.Option(help="Parquet file to write.")] = Path("runs/demo/data/products.parquet"),
) -> None:
    """Write the demo catalogue: 1,598 products in three renderings, from installed packages."""
    from galleria.demo.products import prepare_products

    console().print(f"{prepare_products(out):,} products in [bold]{out}[/bold]")


@app.command()
def convert(
    family: Annotated[str, typer.Argument(help="Name of the family that is to read the rows.")],
    path: Annotated[str, typer.Argument(help="Folder of pictures or videos, .csv, .parquet, or ActivityNet .json.")],
    out: Annotated[Path, typer.Option(help="Folder of parquet files to write.")],
    column: Columns = [],  # noqa: B006
    level: Annotated[list[str], typer.Option(help="A column that is one level of the category tree, root first.")] = [],  # noqa: B006
    label: Annotated[str, typer.Option(help="The column that folder names fill.")] = "category",
    videos: Annotated[str | None, typer.Option(help="Folder of the videos that an annotation file names.")] = None,
) -> None:
    """Turn your files into parquet that every other verb reads."""
    from galleria.learn.family import load_family
    from galleria.pipelines.convert import convert as run
    from galleria.pipelines.readers import ReadOptions

    reading = ReadOptions(_pairs(column, "--column"), level, label, videos)
    count, rejects = run(path, load_family(family), reading, out)
    console().print(
        f"{count:,} rows in [bold]{out}[/bold]; {len(rejects)} rows rejected: [bold]{out.parent}/rejects.jsonl[/bold]"
    )


@app.command()
def train(
    family: Annotated[str, typer.Argument(help="Name of a family, such as text_guided.")],
    data: DataPath,
    out: Annotated[Path, typer.Option(help="Folder for the bundle, the checkpoints and the rejected rows.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe of the family.")] = "paper",
    option: Annotated[list[str], typer.Option(help="An argument of the recipe: name=value.")] = [],  # noqa: B006
    workers: Annotated[int, typer.Option(min=1, help="Training workers; one GPU each where there are enough.")] = 1,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    column: Columns = [],  # noqa: B006
    category_depth: CategoryDepth = None,
    as_json: AsJson = False,
) -> None:
    """Train a family on your data: splits "train" and "validation"."""
    from galleria.learn.family import load_recipe
    from galleria.pipelines.train import train as run
    from galleria.report.progress import training_progress
    from galleria.report.tables import score_table

    chosen = load_recipe(family, recipe, _pairs(option, "--option"))
    screen = console(as_json)
    with training_progress(screen) as show:
        trained = run(chosen, _source(data, column, category_depth), out, workers=workers, resume=resume, show=show)
    screen.print(score_table("Validation", {family: trained.bundle.metrics}))
    screen.print(f"{len(trained.rejects)} rows rejected or used in part: [bold]{out}/rejects.jsonl[/bold]")
    screen.print(f"bundle {trained.bundle.hash[:12]} in [bold]{trained.bundle.path}[/bold]")
    made = {"bundle": str(trained.bundle.path), "hash": trained.bundle.hash}
    print_json(as_json, made | _values(trained.bundle.metrics))


@app.command()
def evaluate(
    bundle: BundlePath,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Rows to score.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder for the rejected rows.")] = None,
    column: Columns = [],  # noqa: B006
    category_depth: CategoryDepth = None,
    as_json: AsJson = False,
) -> None:
    """Score a bundle on one split; retrieval is ranked against the gallery rows of all splits."""
    from galleria.learn.bundle import Bundle
    from galleria.pipelines.evaluate import evaluate as run
    from galleria.report.tables import score_table

    opened = Bundle.open(bundle)
    scores = run(opened, _source(data, column, category_depth), split, out)
    console(as_json).print(score_table(f"{opened.family.name} on {split}", {bundle.name: scores}))
    print_json(as_json, {"split": split, "hash": opened.hash, **_values(scores)})


@app.command()
def embed(
    bundle: BundlePath,
    data: DataPath,
    out: Annotated[Path, typer.Option(help="Product table to write, or to go on with.")],
    attribute: Annotated[list[str], typer.Option(help="A column that searches can be filtered by.")] = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
    category_depth: CategoryDepth = None,
) -> None:
    """Embed what a product table does not hold yet; rows with role "query" are left out."""
    from galleria.learn.bundle import Bundle
    from galleria.pipelines.embed import embed as run

    table, rejects = run(Bundle.open(bundle), _source(data, column, category_depth, attribute), out)
    console().print(
        f"{table.key_map().count:,} items in [bold]{out}[/bold], version {table.version}; "
        f"{len(rejects)} rows rejected or used in part: [bold]{out.parent}/rejects.jsonl[/bold]"
    )


@app.command()
def search(
    picture: Annotated[Path | None, typer.Argument(help="A picture to search with.")] = None,
    text: Annotated[str | None, typer.Option(help="Words to search with.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of hits.")] = 10,
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")] = Path("runs/demo/text_guided/bundle"),
    table: Annotated[Path, typer.Option(help="Product table.")] = Path("runs/demo/text_guided/table.lance"),
    index: Annotated[Path, typer.Option(help="Folder of the index.")] = Path("runs/demo/text_guided/index"),
    allowed: Annotated[
        str | None, typer.Option("--filter", help='Conditions as JSON, such as {"price": {"$lt": 50}}.')
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search once, without a server."""
    from rich.table import Table

    from galleria.index.filters import read_filter
    from galleria.pipelines.search import search as run

    if (picture is None) == (text is None):
        raise ConfigurationError("search with a picture or with --text: give one of the two")
    try:
        query = {"image": picture.read_bytes()} if picture is not None else {"text": text}
    except OSError as error:
        raise ConfigurationError(f"{picture} cannot be read ({error.strerror}): name a picture file") from error
    try:
        conditions = None if allowed is None else read_filter(json.loads(allowed))
    except ValueError as error:
        raise ConfigurationError(f"--filter {allowed!r} is not JSON: {error}") from error
    hits = run(query, k, bundle, table, index, conditions)
    shown = Table("similarity", "id", "title", "category")
    for hit in hits:
        shown.add_row(f"{hit['score']:.3f}", hit["id"], hit["title"], " / ".join(hit["category"] or ()))
    console(as_json).print(shown)
    print_json(as_json, hits)


@app.command()
def serve(
    bundle: Annotated[
        str, typer.Option(help="Folder of the bundle that embeds; '': none.")
    ] = "runs/demo/text_guided/bundle",
    table: Annotated[str, typer.Option(help="Product table.")] = "runs/demo/text_guided/table.lance",
    index: Annotated[str, typer.Option(help="Folder of the index.")] = "runs/demo/text_guided/index",
    model: Annotated[list[str], typer.Option(help="A bundle that classifies or finds events: name=folder.")] = [],  # noqa: B006
    releases: Annotated[
        str, typer.Option(envvar="GALLERIA_RELEASES", help="Folder of releases: serve what its aliases stand for.")
    ] = "",
    writable: Annotated[
        bool, typer.Option("--writable", help="Let whoever reaches the service write and delete items.")
    ] = False,
    keys: Annotated[str, typer.Option(envvar="GALLERIA_KEYS", help="File of keys, made with 'galleria keys'.")] = "",
    audit: Annotated[str, typer.Option(help="File that gets a line for every write.")] = "",
    store: Annotated[list[str], typer.Option(help="Begin of addresses that items' pictures are read from.")] = [],  # noqa: B006
    option: Annotated[
        list[str], typer.Option(help="Whatever else the files in serve_configs/ can say: name=value, shards=deployed.")
    ] = [],  # noqa: B006
    host: Annotated[str, typer.Option(envvar="GALLERIA_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="GALLERIA_PORT")] = 8000,
) -> None:
    """Serve the search page and the HTTP interface until interrupted."""
    from pydantic import ValidationError

    from galleria.serving.config import ServiceConfig
    from galleria.serving.run import serving

    places = {"bundle": bundle, "table": table, "index": index} if bundle and not releases else {}
    named = {"models": _pairs(model, "--model"), "releases": releases, "writable": writable, "keys": keys}
    others = {"audit": audit, "stores": store}
    try:
        arguments = ServiceConfig.model_validate(places | named | others | _pairs(option, "--option"))
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"][:2])
        raise ConfigurationError(f"{where} {first['msg'].removeprefix('Value error, ')}".strip()) from error
    with serving(arguments, host, port) as address:
        _wait(address)


@app.command()
def publish(
    name: Annotated[str, typer.Argument(help="Name of the line of releases; this is its next version.")],
    bundle: BundlePath,
    releases: Annotated[Path, typer.Option(help="Folder of releases.")] = Path("runs/releases"),
    table: Annotated[str, typer.Option(help="Product table that the bundle embedded, of a model that searches.")] = "",
    index: Annotated[str, typer.Option(help="Index of the table.")] = "",
    gate: Annotated[list[str], typer.Option(help="Refuse the bundle unless a score meets this: 'R@1>=0.5'.")] = [],  # noqa: B006
    alias: Annotated[str, typer.Option(help="Have this name stand for it: services that run follow.")] = "",
    as_json: AsJson = False,
) -> None:
    """Publish a bundle, with the table and the index that belong to it, as a release that never changes."""
    from galleria.pipelines.releases import Alias, write_alias
    from galleria.pipelines.releases import publish as run

    release = run(releases, name, bundle, table, index, gate)
    console(as_json).print(f"release [bold]{release.id}[/bold] ({release.family} {release.hash[:12]}) in {releases}")
    if alias:
        write_alias(releases, alias, Alias(release=release.id))
        console(as_json).print(f"alias [bold]{alias}[/bold] stands for it")
    print_json(as_json, {"id": release.id, **release.model_dump(), "alias": alias or None})


@app.command()
def keys(
    file: Annotated[Path, typer.Argument(help="File of keys; made where it is missing.")],
    name: Annotated[str, typer.Option(help="Whose key it is.")],
    role: Annotated[
        Literal["read", "write"], typer.Option(help="read: search and classify; write: change the catalogue too.")
    ] = "read",
    per_second: Annotated[float | None, typer.Option(help="Requests a second that it may send.")] = None,
) -> None:
    """Make a key for a service, and print it: the file keeps its hash only."""
    from galleria.serving.http.keys import new_key

    typer.echo(new_key(file, name, role, per_second))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("runs/demo"),
    check: Annotated[bool, typer.Option("--check", help="Query the own server, verify its answers, and end.")] = False,
    report: Annotated[Path, typer.Option(help="Report to write.")] = Path("demo-report.json"),
    port: Annotated[int, typer.Option(envvar="GALLERIA_PORT")] = 8000,
    family: Annotated[list[str], typer.Option(help="A family to train besides text_guided.")] = [],  # noqa: B006
    room: Annotated[list[str], typer.Option(hidden=True, help="Old name of --family.")] = [],  # noqa: B006
    all_families: Annotated[
        bool,
        typer.Option("--all", envvar=["GALLERIA_DEMO_ALL", "GALLERIA_DEMO_EVERY_ROOM"], help="Train all six families."),
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Train no longer than this: quicker, and worse.")] = None,
) -> None:
    """Train on real data, measure on what was never seen, index and serve: all in one go."""
    from galleria.demo.families import select_families
    from galleria.demo.run import run_demo

    if room:
        warnings.warn("--room is now --family; the old name will be removed in 0.3", FutureWarning, stacklevel=2)
    with run_demo(out, report, port, console(), select_families([*family, *room], all_families), epochs) as address:
        if not check:
            _wait(address)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 1, not a traceback."""
    try:
        app(arguments)
    except GalleriaError as error:
        from rich.console import Console

        Console(stderr=True).print(f"[red]error:[/red] {error}", soft_wrap=True, markup=True, highlight=False)
        sys.exit(1)


def _source(path: str, columns: list[str], category_depth: int | None, attributes: list[str] | None = None) -> Any:
    from galleria.pipelines.datasets import Source

    return Source(path, _pairs(columns, "--column"), category_depth, tuple(attributes or ()))


def _pairs(values: list[str], option: str) -> dict[str, str]:
    for value in values:
        if "=" not in value:
            raise ConfigurationError(f"{option} {value!r} is not of the form name=value")
    return dict(value.split("=", 1) for value in values)


def _values(scores: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {"scores": {name: asdict(score) for name, score in scores.items()}}


def _wait(address: str) -> None:
    import contextlib
    import signal
    import threading

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console().print(f"\nserving on [bold]{address}[/bold] – open it in a browser; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
