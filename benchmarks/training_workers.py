"""Training workers of `benchmarks.training` without Ray: a process and a core each, joined by torch.distributed."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galleria.learn.recipe import Recipe


class Stream:
    """A split in memory, read as Ray Data's iterator is."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def iter_batches(self, **_: object) -> Iterator[pa.Table]:
        """Yield the rows."""
        yield self.table


def split(data: Path, name: str, rows: int) -> pa.Table:
    """Return the first rows of a split."""
    table = pq.read_table(data)
    return table.filter(pa.compute.equal(table["split"], name)).slice(0, rows)


def work(rank: int, workers: int, local: bool, recipe: Recipe[Any], tables: Mapping[str, pa.Table], out: Path) -> None:
    """Train as one of the workers; rank 0 writes the rates, of all workers together and without the first epoch."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    import torch
    import torch.distributed as dist

    from galleria.learn.family import load_family
    from galleria.learn.metrics.score import Score
    from galleria.learn.task import Task
    from galleria.learn.training.data_parallel import wrap
    from galleria.learn.training.loop import TrainingState, fit, freeze
    from galleria.pipelines.worker_batches import Run, WorkerBatches
    from galleria.pipelines.worker_shard import WorkerShard

    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{out}.group", rank=rank, world_size=workers)
    if local:
        _compute_losses_of_own_rows()
    family = load_family(recipe.family)
    context = family.context(recipe.model, tables["train"].to_pylist())
    counts = {name: len(table) for name, table in tables.items()}
    products = tables["train"]["product_id"].to_numpy(zero_copy_only=False)
    groups = np.unique(products, return_inverse=True)[1]
    size, epochs = recipe.sampling.batch_size, recipe.stopping.epochs
    run = Run(recipe, context, counts["train"] // workers // size, counts, groups, False, checkpoint_minutes=1e9)
    shards = {name: WorkerShard(cast(Any, Stream(table)), recipe.sampling.buffer) for name, table in tables.items()}
    batches = WorkerBatches(run, shards, lambda _: None)
    torch.manual_seed(recipe.seed)
    task = family.build(context.config)
    freeze(task, recipe.optimization)
    model = wrap(task)
    state = TrainingState(task, recipe, run.steps * epochs)
    validations = []

    def scores(evaluated: Task) -> Mapping[str, Score]:
        start = time.perf_counter()
        result = batches.scores(evaluated)
        validations.append(time.perf_counter() - start)
        return result

    reports = list(fit(model, recipe, batches.training, scores, state))[1:]
    if rank == 0:
        steps_per_second = sum(report.steps for report in reports) / sum(report.seconds for report in reports)
        rates = {
            "steps_per_second": steps_per_second,
            "training_rows_per_second": steps_per_second * size * workers,
            "validation_rows_per_second": counts["validation"] * len(reports) / sum(validations[-len(reports) :]),
        }
        out.write_text(json.dumps(rates))
    if workers > 1:
        dist.destroy_process_group()


def _compute_losses_of_own_rows() -> None:
    """Have each worker compute its loss from its own rows alone, as DistributedDataParallel does without `galleria`."""
    from galleria.families.text_guided import task

    own: dict[str, Any] = {"gather_rows": lambda *columns: columns, "mean_over_workers": lambda mean, _: mean}
    vars(task).update(own)
