"""`galleria search`, `serve`, `doctor`, `publish` and `keys`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from galleria.cli.options import BundlePath
from galleria.cli.service_options import (
    DEMO,
    Audit,
    Bundle,
    ConfigPath,
    CorsOrigins,
    Host,
    Index,
    KeysPath,
    Models,
    Options,
    Port,
    Releases,
    Stores,
    Table,
    Writable,
    settings_of,
)
from galleria.cli.terminal import AsJson, bold, console, print_json, wait_until_interrupted
from galleria.errors import ConfigurationError

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def search(
    picture: Annotated[Path | None, typer.Argument(help="Picture to search with.")] = None,
    text: Annotated[str | None, typer.Option(help="Text to search with.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of hits.")] = 10,
    bundle: Annotated[Path, typer.Option(help="Path of the bundle.")] = Path(f"{DEMO}/bundle"),
    table: Annotated[Path, typer.Option(help="Path of the product table.")] = Path(f"{DEMO}/table.lance"),
    index: Annotated[Path, typer.Option(help="Path of the index.")] = Path(f"{DEMO}/index"),
    allowed: Annotated[
        str | None, typer.Option("--filter", help='Conditions as JSON, such as {"price": {"$lt": 50}}.')
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search once, without a server."""
    from rich.table import Table as Lines

    from galleria.pipelines.search import search as run

    hits = run(_query(picture, text), k, bundle, table, index, _conditions(allowed))
    shown = Lines("similarity", "id", "title", "category")
    for hit in hits:
        shown.add_row(f"{hit['score']:.3f}", hit["id"], hit["title"], " / ".join(hit["category"] or ()))
    console(as_json).print(shown)
    print_json(as_json, hits)


def serve(
    context: typer.Context,
    config_file: ConfigPath = None,
    bundle: Bundle = f"{DEMO}/bundle",
    table: Table = f"{DEMO}/table.lance",
    index: Index = f"{DEMO}/index",
    model: Models = [],  # noqa: B006
    releases: Releases = "",
    writable: Writable = False,
    keys: KeysPath = "",
    audit: Audit = "",
    store: Stores = [],  # noqa: B006
    cors_origin: CorsOrigins = [],  # noqa: B006
    option: Options = [],  # noqa: B006
    host: Host = "127.0.0.1",
    port: Port = 8000,
) -> None:
    """Serve the search page and the HTTP API until interrupted. Exit code 1: the service stayed down."""
    from galleria.serving.run import OutageMonitor, end_if_interrupted, serving

    settings = settings_of(context)
    with (
        end_if_interrupted(),
        serving(settings.config, settings.host, settings.port, settings.deployments) as address,
    ):
        wait_until_interrupted(address, OutageMonitor().check)


def doctor(
    context: typer.Context,
    config_file: ConfigPath = None,
    bundle: Bundle = f"{DEMO}/bundle",
    table: Table = f"{DEMO}/table.lance",
    index: Index = f"{DEMO}/index",
    model: Models = [],  # noqa: B006
    releases: Releases = "",
    writable: Writable = False,
    keys: KeysPath = "",
    audit: Audit = "",
    store: Stores = [],  # noqa: B006
    cors_origin: CorsOrigins = [],  # noqa: B006
    option: Options = [],  # noqa: B006
    host: Host = "127.0.0.1",
    port: Port = 8000,
    as_json: AsJson = False,
) -> None:
    """Check what 'galleria serve' needs with these options, without starting it. Exit code 1: a check failed."""
    from rich.markup import escape
    from rich.table import Table as Lines

    from galleria.serving.doctor import check_deployment

    settings = settings_of(context)
    lines = Lines("", "check", "", "what to do")
    checks = []
    for check in check_deployment(settings.config, settings.host, settings.port):
        checks.append(check)
        colour = COLOURS[check.status]
        lines.add_row(f"[{colour}]{check.status}[/{colour}]", *map(escape, (check.name, check.detail, check.fix)))
    console(as_json).print(lines)
    print_json(as_json, [asdict(check) for check in checks])
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(1)


def publish(
    name: Annotated[str, typer.Argument(help="Name of the release; the version is the next of that name.")],
    bundle: BundlePath,
    releases: Annotated[Path, typer.Option(help="Path of the releases folder.")] = Path("runs/releases"),
    table: Annotated[str, typer.Option(help="Path of the bundle's product table, if the model searches.")] = "",
    index: Annotated[str, typer.Option(help="Path of the table's index.")] = "",
    gate: Annotated[list[str], typer.Option(help="Condition on a score of the bundle, such as 'R@1>=0.5'.")] = [],  # noqa: B006
    alias: Annotated[str, typer.Option(help="Point this alias at the release; running services follow.")] = "",
    as_json: AsJson = False,
) -> None:
    """Publish a bundle, with its table and index, as an immutable release."""
    from galleria.pipelines.releases import Alias, write_alias
    from galleria.pipelines.releases import publish as run

    release = run(releases, name, bundle, table, index, gate)
    console(as_json).print(f"release {bold(release.id)} ({release.family} {release.hash[:12]}) in {bold(releases)}")
    if alias:
        write_alias(releases, alias, Alias(release=release.id))
        console(as_json).print(f"alias {bold(alias)} resolves to it")
    print_json(as_json, {"id": release.id, **release.model_dump(), "alias": alias or None})


def keys(
    file: Annotated[Path, typer.Argument(help="Path of the API keys file; created if it is missing.")],
    name: Annotated[str, typer.Option(help="Name of the client that gets the key.")],
    role: Annotated[
        Literal["read", "write"], typer.Option(help="read: search and classify; write: change the catalogue too.")
    ] = "read",
    per_second: Annotated[float | None, typer.Option(help="Rate limit in requests per second.")] = None,
) -> None:
    """Create an API key and print it; the file holds only its hash."""
    from galleria.serving.http.keys import new_key

    typer.echo(new_key(file, name, role, per_second))


def _query(picture: Path | None, text: str | None) -> dict[str, Any]:
    if (picture is None) == (text is None):
        raise ConfigurationError("search with a picture or with --text: give one of the two")
    if picture is None:
        return {"text": text}
    try:
        return {"image": picture.read_bytes()}
    except OSError as error:
        raise ConfigurationError(f"{picture} cannot be read ({error.strerror}): name a picture file") from error


def _conditions(text: str | None) -> Any:
    from galleria.index.filters import read_filter

    try:
        return None if text is None else read_filter(json.loads(text))
    except ValueError as error:
        raise ConfigurationError(f"--filter {text!r} is not JSON: {error}") from error
