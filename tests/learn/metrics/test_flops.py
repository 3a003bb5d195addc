"""Predictions count their arithmetic: that of their layers, for one row."""

import pytest
import torch

from galleria.learn.metrics.flops import predict_counting
from tests.families.test_video_event import batch, network
from tests.learn.tiny import Line, LineConfig


@pytest.mark.parametrize("rows", [1, 8])
def test_multiply_add_is_two_operations(rows: int) -> None:
    task = Line(LineConfig())
    given = {"x": torch.ones(rows)}

    outputs, gigaflops = predict_counting(task, given)

    assert torch.equal(outputs["y"], task.predict(given)["y"])
    assert gigaflops == pytest.approx(2e-9)


def test_padded_frames_cost_nothing() -> None:
    task = network().eval()

    long, short = (predict_counting(task, batch((frames,) * 3))[1] for frames in (8, 4))

    assert short == pytest.approx(long / 2, rel=0.1)
