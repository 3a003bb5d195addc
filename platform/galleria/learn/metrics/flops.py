"""The arithmetic that a prediction costs, as torch counts it."""

from torch.utils.flop_counter import FlopCounterMode

from galleria.learn.task import Batch, Outputs, Task


def predict_counting(task: Task, batch: Batch) -> tuple[Outputs, float]:
    """Return the predictions for a batch, and the GFLOPs of one of its rows: a multiply-add is two operations."""
    with FlopCounterMode(display=False) as counter:
        outputs = task.predict(batch)
    return outputs, counter.get_total_flops() / 1e9 / len(next(iter(batch.values())))
