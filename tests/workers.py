"""Runs a function on several workers of one torch.distributed group, on this machine."""

import multiprocessing
import multiprocessing.connection
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")  # no thread of this process is forked
PRELOADED = (
    "pytorch_metric_learning.losses",
    "transformers.models.gpt2.modeling_gpt2",
    *(
        f"tests.families.test_{name}"
        for name in ("text_guided", "category_tree", "video_event", "aesthetic_emotion", "garment_gender", "contour")
    ),
)
"""Imported once, for all workers of all tests."""


def run_workers(function: Callable[..., Any], workers: int, *arguments: Any) -> list[Any]:
    """Return what `function(*arguments)` returns on every worker, by rank. The function is one of a module."""
    CONTEXT.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            CONTEXT.Process(target=_work, args=(folder, rank, workers, function, arguments)) for rank in range(workers)
        ]
        for process in processes:
            process.start()
        running = list(processes)
        while running and not any(process.exitcode for process in processes):
            multiprocessing.connection.wait([process.sentinel for process in running])
            running = [process for process in running if process.is_alive()]
        for process in running:
            process.kill()  # it waits for one that failed
        for process in processes:
            process.join()
        failed = [rank for rank, process in enumerate(processes) if process.exitcode]
        assert not failed, f"workers {failed} of {workers} failed: see their tracebacks above"
        import torch

        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(workers)]


def _work(folder: str, rank: int, workers: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=workers)
    torch.save(function(*arguments), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()
