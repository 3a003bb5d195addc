"""`galleria data`: `check` and `preview` of a user's files, and the demo's catalogue."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galleria.cli.options import Columns
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
    from galleria.pipelines.data_check.check import DataReport

COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}
DEMO_DATA = Path("runs/demo/data/products.parquet")

FamilyName = Annotated[str, typer.Option(help="Name of the family that would read the rows.")]
data = typer.Typer(help="Check and preview your files, and write the demo's.")


@data.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context, out: Annotated[Path | None, typer.Option(hidden=True, help="Old option.")] = None
) -> None:
    if context.invoked_subcommand is None:
        warnings.warn(
            "`galleria data` is now `galleria data demo`; the old form will be removed in 0.3",
            FutureWarning,
            stacklevel=2,
        )
        write_demo(out or DEMO_DATA)


@data.command("demo")
def write_demo(out: Annotated[Path, typer.Option(help="Parquet file to write.")] = DEMO_DATA) -> None:
    """Write the demo catalogue: 1,598 products in three renderings, from installed packages."""
    from galleria.demo.products import prepare_products

    console().print(f"{prepare_products(out):,} products in {bold(out)}")


@data.command()
def check(
    path: FilesPath,
    family: FamilyName = "text_guided",
    column: Columns = [],  # noqa: B006
    level: Levels = [],  # noqa: B006
    label: Label = "category",
    videos: Videos = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    quote: Quote = None,
    category_separator: CategorySeparator = None,
    feed: Feed = None,
    format_: Format = None,
    images: Images = None,
    whole: Whole = False,
    table: Annotated[
        Path | None, typer.Option(help="Product table that they were embedded to: finds labels that are likely wrong.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write, with the pictures of the examples.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what would make training fail, or worse: exit code 1 where it could not work."""
    from dataclasses import asdict

    from galleria.learn.family import load_family
    from galleria.pipelines.data_check.check import check_data

    reader = load_family(family)
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
        format_=format_,
        images=images,
        whole=whole,
    )
    with row_progress("checking", as_json) as progress:
        report = check_data(path, reader, options, table=table, progress=progress)
    _print_report(report, as_json)
    if html is not None:
        from galleria.report.data_page import check_page

        html.write_text(check_page(report, reader, options), encoding="utf-8")
        console(as_json).print(f"the pictures of the examples are in {bold(html)}")
    print_json(as_json, {"usable": report.is_usable, **asdict(report)})
    if not report.is_usable:
        raise typer.Exit(1)


@data.command()
def preview(
    path: FilesPath,
    family: FamilyName = "text_guided",
    html: Annotated[Path, typer.Option(help="Page to write.")] = Path("preview.html"),
    rows: Annotated[int, typer.Option(min=1, help="Number of rows.")] = 60,
    column: Columns = [],  # noqa: B006
    level: Levels = [],  # noqa: B006
    label: Label = "category",
    videos: Videos = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    quote: Quote = None,
    category_separator: CategorySeparator = None,
    feed: Feed = None,
    format_: Format = None,
    images: Images = None,
    whole: Whole = False,
) -> None:
    """Write the first rows as a page of pictures with their fields, as a family would read them."""
    from galleria.learn.family import load_family
    from galleria.report.data_page import preview_page

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
        format_=format_,
        images=images,
        whole=whole,
    )
    page, count = preview_page(path, load_family(family), options, rows)
    html.write_text(page, encoding="utf-8")
    console().print(f"{count:,} rows are shown in {bold(html)}")


def _print_report(report: "DataReport", quiet: bool) -> None:
    from rich.markup import escape

    screen = console(quiet)
    mapped = (name if name == column else f"{name} ← {column}" for name, column in report.columns.items())
    screen.print(f"{report.rows:,} rows; columns: {escape(', '.join(mapped))}")
    for name, counts in (("splits", report.splits), ("different", report.classes), ("sources", report.sources)):
        if counts:
            screen.print(f"{name}: {escape(', '.join(f'{key} {count:,}' for key, count in counts.items()))}")
    for finding in report.findings:
        severity = f"[{COLOURS[finding.severity]}]{finding.severity}:[/]"
        screen.print(f"{severity} {escape(finding.message)}: {escape(finding.fix)}", highlight=False)
        examples = "; ".join(", ".join(group[:3]) for group in finding.examples[:3])
        if examples:
            screen.print(f"  such as {escape(examples)}", highlight=False)
    if not report.findings:
        screen.print("[green]nothing was found that should be changed[/green]")
