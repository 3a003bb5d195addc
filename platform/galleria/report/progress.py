"""Shows a training run on the terminal: a bar for the steps and a line for every epoch."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from galleria.pipelines.train import Progress as Step

CONSTANT_SCORES = ("GFLOPs",)
"""Scores that are the same in every epoch."""


@contextlib.contextmanager
def training_progress(console: Console) -> Iterator[Callable[[Step], None]]:
    """Return a function to pass to `pipelines.train.train` as `show`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting the workers", total=None)

        def show(step: Step) -> None:
            if step.report is None:
                epoch = step.epoch + 1
                done = step.epoch * step.steps + step.step
                progress.update(
                    bar, description=f"epoch {epoch}", completed=done, total=step.steps * step.epochs, refresh=True
                )
                return
            report = step.report
            shown = "  ".join(
                f"{name} {score.value:.3f}"
                for name, score in report.scores.items()
                if "/" not in name and name not in CONSTANT_SCORES
            )
            best = " [green]best[/green]" if report.improved else ""
            line = f"epoch {report.epoch}/{step.epochs}  loss {report.losses['loss']:.3f}  {shown}{best}"
            console.print(line, soft_wrap=True)

        yield show
