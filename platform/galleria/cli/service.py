"""`galleria search`, `serve`, `publish` and `keys`."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from galleria.cli.options import BundlePath, parse_pairs
from galleria.cli.terminal import AsJson, bold, console, print_json, wait_until_interrupted
from galleria.errors import ConfigurationError

DEMO = "runs/demo/text_guided"


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
    from rich.table import Table

    from galleria.pipelines.search import search as run

    hits = run(_query(picture, text), k, bundle, table, index, _conditions(allowed))
    shown = Table("similarity", "id", "title", "category")
    for hit in hits:
        shown.add_row(f"{hit['score']:.3f}", hit["id"], hit["title"], " / ".join(hit["category"] or ()))
    console(as_json).print(shown)
    print_json(as_json, hits)


def serve(
    context: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="A Ray Serve config file, as 'serve run' takes it; other options override it."),
    ] = None,
    bundle: Annotated[str, typer.Option(help="Path of the bundle that searches; '' for none.")] = f"{DEMO}/bundle",
    table: Annotated[str, typer.Option(help="Path of the product table.")] = f"{DEMO}/table.lance",
    index: Annotated[str, typer.Option(help="Path of the index.")] = f"{DEMO}/index",
    model: Annotated[list[str], typer.Option(help="A bundle that classifies or detects events: name=path.")] = [],  # noqa: B006
    releases: Annotated[
        str,
        typer.Option(
            envvar="GALLERIA_RELEASES", help="Path of a releases folder: serve what each of its aliases resolves to."
        ),
    ] = "",
    writable: Annotated[bool, typer.Option("--writable", help="Allow clients to write and delete items.")] = False,
    keys: Annotated[
        str, typer.Option(envvar="GALLERIA_KEYS", help="Path of an API keys file, created with 'galleria keys'.")
    ] = "",
    audit: Annotated[str, typer.Option(help="File to log every write to.")] = "",
    store: Annotated[list[str], typer.Option(help="URI of a folder that items' pictures may be read from.")] = [],  # noqa: B006
    option: Annotated[
        list[str], typer.Option(help="Any other option of the service: name=value, such as shards=deployed.")
    ] = [],  # noqa: B006
    host: Annotated[str, typer.Option(envvar="GALLERIA_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="GALLERIA_PORT", help="Port to listen on.")] = 8000,
) -> None:
    """Serve the search page and the HTTP API until interrupted."""
    from galleria.serving.config_file import ConfigFile, read_config_file
    from galleria.serving.run import serving

    file = read_config_file(config_file) if config_file else ConfigFile({}, {}, None, None)
    paths = {"bundle": bundle, "table": table, "index": index} if config_file or (bundle and not releases) else {}
    named = {"releases": releases, "writable": writable, "keys": keys, "audit": audit}
    values = {**paths, **named, "models": parse_pairs(model, "--model"), "stores": store}
    parameters = {"models": "model", "stores": "store"}
    if config_file:
        values = {name: value for name, value in values.items() if _is_given(context, parameters.get(name, name))}
    config = _service_config({**file.args, **values, **parse_pairs(option, "--option")})
    if file.host is not None and not _is_given(context, "host"):
        host = file.host
    if file.port is not None and not _is_given(context, "port"):
        port = file.port
    with serving(config, host, port, file.deployments) as address:
        wait_until_interrupted(address)


def _is_given(context: typer.Context, name: str) -> bool:
    """Return whether an option was given, on the command line or in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


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


def _service_config(values: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from galleria.serving.config import ServiceConfig

    try:
        return ServiceConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = " ".join(str(part) for part in first["loc"][:2])
        raise ConfigurationError(f"{location} {first['msg'].removeprefix('Value error, ')}".strip()) from error
