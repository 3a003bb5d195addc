"""Options of `galleria serve` and `galleria doctor`, and the configuration that they make."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from galleria.cli.options import parse_pairs
from galleria.errors import ConfigurationError

if TYPE_CHECKING:
    from galleria.serving.config import ServiceConfig

DEMO = "runs/demo/text_guided"

ConfigPath = Annotated[
    Path | None,
    typer.Option("--config", help="A Ray Serve config file, as 'serve run' takes it; other options override it."),
]
Bundle = Annotated[str, typer.Option(help="Path of the bundle that searches; '' for none.")]
Table = Annotated[str, typer.Option(help="Path of the product table.")]
Index = Annotated[str, typer.Option(help="Path of the index.")]
Models = Annotated[list[str], typer.Option(help="A bundle that classifies or detects events: name=path.")]
Releases = Annotated[
    str,
    typer.Option(
        envvar="GALLERIA_RELEASES", help="Path of a releases folder: serve what each of its aliases resolves to."
    ),
]
Writable = Annotated[bool, typer.Option("--writable", help="Allow clients to write and delete items.")]
KeysPath = Annotated[
    str, typer.Option(envvar="GALLERIA_KEYS", help="Path of an API keys file, created with 'galleria keys'.")
]
Audit = Annotated[str, typer.Option(help="File to log every write to.")]
Stores = Annotated[list[str], typer.Option(help="URI of a folder that items' pictures may be read from.")]
CorsOrigins = Annotated[
    list[str], typer.Option(help="Origin whose pages may use the service from a browser, such as https://shop.example.")
]
Options = Annotated[
    list[str], typer.Option(help="Any other option of the service: name=value, such as shards=deployed.")
]
Host = Annotated[str, typer.Option(envvar="GALLERIA_HOST", help="Address to listen on.")]
Port = Annotated[int, typer.Option(envvar="GALLERIA_PORT", help="Port to listen on.")]


class Settings(NamedTuple):
    """What the options, and the config file that they may name, say of a service."""

    config: "ServiceConfig"
    host: str
    port: int
    deployments: Mapping[str, Mapping[str, Any]]


def settings_of(context: typer.Context) -> Settings:
    """Return the settings of a command that has all of the options above.

    Raises:
        ConfigurationError: an option, or the config file, cannot be used.
    """
    from galleria.serving.config_file import ConfigFile, read_config_file

    given = context.params
    path = given["config_file"]
    file = read_config_file(path) if path else ConfigFile({}, {}, None, None)
    names = ["releases", "writable", "keys", "audit"]
    if path or (given["bundle"] and not given["releases"]):
        names += ["bundle", "table", "index"]
    values = {name: given[name] for name in names}
    values |= {"models": parse_pairs(given["model"], "--model"), "stores": given["store"]}
    values["cors_origins"] = given["cors_origin"]
    parameters = {"models": "model", "stores": "store", "cors_origins": "cors_origin"}
    if path:
        values = {name: value for name, value in values.items() if _is_given(context, parameters.get(name, name))}
    config = _service_config({**file.args, **values, **parse_pairs(given["option"], "--option")})
    host, port = given["host"], given["port"]
    if file.host is not None and not _is_given(context, "host"):
        host = file.host
    if file.port is not None and not _is_given(context, "port"):
        port = file.port
    return Settings(config, host, port, file.deployments)


def _is_given(context: typer.Context, name: str) -> bool:
    """Return whether an option was given, on the command line or in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _service_config(values: dict[str, Any]) -> "ServiceConfig":
    from pydantic import ValidationError

    from galleria.serving.config import ServiceConfig

    try:
        return ServiceConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = " ".join(str(part) for part in first["loc"][:2])
        raise ConfigurationError(f"{location} {first['msg'].removeprefix('Value error, ')}".strip()) from error
