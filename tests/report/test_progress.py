"""The lines of a training run on the terminal."""

import io

from rich.console import Console

from galleria.learn.metrics.score import Score
from galleria.learn.training.loop import Report
from galleria.pipelines.worker_batches import Progress
from galleria.report.progress import training_progress


def test_epoch_is_a_line_of_what_changes() -> None:
    out = io.StringIO()
    names = ("R@1", "twemoji/R@1", "GFLOPs")
    scores = {name: Score(0.5, 0.4, 0.6, 9, 0) for name in names}
    with training_progress(Console(file=out, width=200)) as show:
        show(Progress(0, 1, 2, 3))
        show(Progress(0, 2, 2, 3, Report(1, 2, 1.0, {"loss": 2.5, "softmax": 1.0}, scores, True, None)))

    assert out.getvalue().split() == ["epoch", "1/3", "loss", "2.500", "R@1", "0.500", "best"]
