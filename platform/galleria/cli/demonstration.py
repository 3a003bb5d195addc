"""`galleria demo`."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from galleria.cli.terminal import console, wait_until_interrupted


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo writes.")] = Path("runs/demo"),
    check: Annotated[
        bool, typer.Option("--check", help="Send requests to the service, verify the responses, and exit.")
    ] = False,
    report: Annotated[Path, typer.Option(help="Report to write.")] = Path("demo-report.json"),
    port: Annotated[int, typer.Option(envvar="GALLERIA_PORT", help="Port of the service.")] = 8000,
    family: Annotated[list[str], typer.Option(help="A family to train in addition to text_guided.")] = [],  # noqa: B006
    room: Annotated[list[str], typer.Option(hidden=True, help="Old name of --family.")] = [],  # noqa: B006
    all_families: Annotated[
        bool,
        typer.Option(
            "--all",
            envvar=["GALLERIA_DEMO_ALL", "GALLERIA_DEMO_EVERY_ROOM"],
            show_envvar=False,
            help="Train all six families.",
        ),
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of epochs: fewer are quicker, and score lower.")
    ] = None,
) -> None:
    """Train on real data, evaluate on held-out data, build an index, and serve."""
    from galleria.demo.families import select_families
    from galleria.demo.run import run_demo
    from galleria.serving.run import OutageMonitor

    if room:
        warnings.warn("--room is now --family; the old name will be removed in 0.3", FutureWarning, stacklevel=2)
    with run_demo(out, report, port, console(), select_families([*family, *room], all_families), epochs) as address:
        if not check:
            wait_until_interrupted(address, OutageMonitor().check)
