"""The command line. Exit codes: 0 success, 1 a user's mistake or a failed check, 2 wrong usage of a command."""

import sys
from typing import Annotated

import typer

from galleria.cli.catalogue import index, items
from galleria.cli.data import data
from galleria.cli.demonstration import demo
from galleria.cli.models import convert, embed, evaluate, recipes, train
from galleria.cli.service import doctor, keys, publish, search, serve
from galleria.cli.terminal import console
from galleria.errors import GalleriaError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"auto_envvar_prefix": "GALLERIA"},  # GALLERIA_SERVE_TABLE is --table of serve, and so on
)
for command in (convert, recipes, train, evaluate, embed, search, serve, doctor, publish, keys, demo):
    app.command()(command)
app.add_typer(data, name="data")
app.add_typer(index, name="index")
app.add_typer(items, name="items")


def _print_version(requested: bool) -> None:
    if requested:
        import galleria

        typer.echo(galleria.__version__)
        raise typer.Exit


@app.callback()
def galleria_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, allow_from_autoenv=False, help="Print the version."
        ),
    ] = False,
) -> None:
    """Train, evaluate, index and serve visual-understanding models for catalogues."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 1, without a traceback."""
    try:
        app(arguments)
    except GalleriaError as error:
        from rich.markup import escape

        console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        sys.exit(1)
