"""What all verbs print with."""

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


def console(quiet: bool = False) -> Any:
    """A terminal, or one that prints nothing."""
    from rich.console import Console

    return Console(quiet=quiet)


def print_json(wanted: bool, value: Any) -> None:
    """Print a value as JSON, where it is wanted."""
    if wanted:
        typer.echo(json.dumps(value, ensure_ascii=False))
