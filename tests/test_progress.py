"""Progress in a log: a line now and then, with the rate and the time left."""

import io

from rich.console import Console

from galleria.cli.progress import LoggedProgress


def test_log_has_a_line_every_half_minute() -> None:
    now = 100.0
    out = io.StringIO()
    progress = LoggedProgress("embedding", Console(file=out, width=200), lambda: now)
    for second in range(1, 91):
        now = 100.0 + second
        progress.show(20 * second, 6_000 if second > 40 else None)

    assert out.getvalue().splitlines() == [
        "embedding: 600 rows, 20.0 a second",
        "embedding: 1,200 rows of 6,000, 240 s left, 20.0 a second",
        "embedding: 1,800 rows of 6,000, 210 s left, 20.0 a second",
    ]


def test_short_runs_log_nothing() -> None:
    out = io.StringIO()
    progress = LoggedProgress("embedding", Console(file=out), lambda: 7.0)

    progress.show(10, 10)

    assert out.getvalue() == ""
