"""Tables of scores for the terminal."""

from collections.abc import Iterable, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from galleria.learn.metrics.score import Score


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table of texts, which are printed as they are."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(escape(text) for text in row))
    return table


def score_table(title: str, columns: Mapping[str, Mapping[str, Score]], names: list[str] | None = None) -> Table:
    """Make a table with a row for each score and a column for each model: value and 95 % interval, in percent.

    Args:
        title: heading.
        columns: model name → its scores.
        names: scores to show, in order; by default all that any model has.
    """
    table = Table(title=title, title_justify="left", caption="95 % bootstrap intervals over queries")
    table.add_column("score")
    for model in columns:
        table.add_column(model, justify="right")
    every = dict.fromkeys(name for scores in columns.values() for name in scores)
    for name in names or every:
        table.add_row(name, *(_cell(scores.get(name)) for scores in columns.values()))
    return table


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"[bold]{100 * score.value:.1f}[/bold] [dim]({100 * score.low:.1f} – {100 * score.high:.1f})[/dim]"
