"""Writes what the site includes while it is built: serving options, commands, and the root folder's Markdown files."""

import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel
from typer.cli import get_docs_for_click

from galleria.cli import app
from galleria.serving.config import ServiceConfig


def options_table(model: type[BaseModel] = ServiceConfig, prefix: str = "") -> str:
    """Return a Markdown table of a model's options: name, type, default and description."""
    rows = [] if prefix else ["| option | type | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        default = "" if nested else _code(repr(field.get_default(call_default_factory=True)))
        kind = "mapping" if nested else _type(field.annotation)
        rows.append(f"| `{prefix}{name}` | {_code(kind)} | {default} | {_escape(field.description or '')} |")
        if nested:
            rows.append(options_table(field.annotation, f"{prefix}{name}."))
    return "\n".join(rows)


def cli_reference() -> str:
    """Return all commands with their arguments and options as Markdown, as `typer utils docs` does."""
    command = typer.main.get_command(app)
    return str(get_docs_for_click(obj=command, ctx=typer.Context(command), name="galleria"))


def relative_to_docs(text: str) -> str:
    """Return Markdown of the root folder with its links as seen from docs/."""
    text = re.sub(r"\]\((?!https?://|#|docs/)", "](../", text).replace("](docs/", "](")
    for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"):
        text = text.replace(f"](../{name}.md", f"]({name.lower()}.md")
    return text


def write_pages(folder: Path) -> None:
    """Write all of it into `folder`; the pages of the site include it."""
    folder.mkdir(exist_ok=True)
    (folder / "options.md").write_text(options_table() + "\n")
    (folder / "cli.md").write_text(cli_reference())
    for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY"):
        page = relative_to_docs((Path(__file__).parents[1] / f"{name}.md").read_text())
        (folder / f"{name.lower()}.md").write_text(page)


def _type(annotation: Any) -> str:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _type(arguments[0])
    if get_origin(annotation) is dict:
        return f"dict[{', '.join(map(_type, arguments))}]"
    return (annotation.__name__ if isinstance(annotation, type) and not arguments else str(annotation)).replace(
        "typing.", ""
    )


def _code(text: str) -> str:
    return f"`{_escape(text)}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
