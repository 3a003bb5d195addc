"""The batches and scores of one training worker, and its part of the warm start."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galleria.learn.examples import Examples, without_pictures
from galleria.learn.family import Context, Family, load_family
from galleria.learn.metrics.flops import predict_counting
from galleria.learn.metrics.score import Score
from galleria.learn.recipe import Recipe
from galleria.learn.task import Batch, Outputs, Row, Task
from galleria.learn.training.data_parallel import agree, collect_objects, rank, share_buffers, total, world_size
from galleria.learn.training.loop import Report
from galleria.learn.training.sampling import chunks, deal, training_batches
from galleria.pipelines.cluster_examples import ClusterExamples
from galleria.pipelines.rejects import Reject
from galleria.pipelines.worker_shard import WorkerShard

REPORT_INTERVAL_S = 0.5
"""A report is a remote call: one for every step would slow down fast steps."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run: `report` is set at the end of an epoch, the other fields at every step."""

    epoch: int
    step: int
    steps: int
    epochs: int
    report: Report | None = None


@dataclass(frozen=True)
class Run:
    """What every worker knows of its run.

    Attributes:
        recipe: what is trained.
        context: of the training rows.
        steps: number of batches of a worker's epoch.
        rows: number of rows of each split.
        groups: `[N]` group of every training row: workers are dealt groups.
        augmented_queries: validation rows are the gallery, and augmented once more the queries.
        checkpoint_minutes: interval of checkpoints inside an epoch.
    """

    recipe: Recipe[Any]
    context: Context[Any]
    steps: int
    rows: Mapping[str, int]
    groups: NDArray[np.int64]
    augmented_queries: bool
    checkpoint_minutes: float


def examples_of(
    recipe: Recipe[Any], family: Family[Any], context: Context[Any], reject: Callable[[Row, str], None]
) -> Examples:
    """Return what makes the batches of a run: this worker's threads or the cluster, as its recipe sets."""
    kind = ClusterExamples if recipe.sampling.decode_on == "cluster" else Examples
    return kind(family, context, recipe.sampling.threads, reject)


class WorkerBatches:
    """Batches and scores of one worker, for the training loop."""

    def __init__(
        self, run: Run, splits: Mapping[str, WorkerShard], send: Callable[[Progress | Reject | str], None]
    ) -> None:
        self.run = run
        self.recipe = run.recipe
        self.splits = splits
        self.family = load_family(run.recipe.family)
        self.send = send
        self.examples = examples_of(self.recipe, self.family, run.context, self._reject)
        self.rejected: set[str] = set()
        self.reported = 0.0
        self.gigaflops: float | None = None

    def training(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield exactly `steps` batches, or those from number `start` on.

        Workers must step together, so one that rejected rows repeats a batch. The rows of an epoch are dealt anew.
        """
        worker = deal(self.run.groups, world_size(), (self.recipe.seed, epoch))
        rows = self.splits["train"].select(lambda indices: worker[indices] == rank())
        generator = np.random.default_rng((self.recipe.seed, epoch, rank()))
        groups = islice(training_batches(rows, self.recipe.sampling, generator), start, None)
        first: Batch | None = None
        repeats = False
        stream = self.examples.stream(groups, (self.recipe.seed, epoch))
        usable = (batch for batch in stream if len(next(iter(batch.values()))) >= 2)  # else without batch statistics
        steps = self.run.steps
        for step in range(start, steps):
            batch = next(usable, None)
            if batch is None:
                if first is None:
                    return
                if not repeats:
                    self._report_repeats(step)
                batch, repeats = first, True
            first = first or batch
            yield batch
            if rank() == 0 and time.monotonic() > self.reported + REPORT_INTERVAL_S:
                self.reported = time.monotonic()
                self.send(Progress(epoch, step + 1, steps, self.recipe.stopping.epochs))

    @torch.no_grad()
    def scores(self, task: Task) -> Mapping[str, Score]:
        """Score the full validation split, each worker a part of it; all get the scores of rank 0.

        Batches and their order are those of one worker, and so are the scores. Rows that were rejected count as
        `dropped`. "GFLOPs" are those of a row of the first batch.
        """
        task.eval()
        share_buffers(task)
        counts = {"read": 0.0, "predicted": 0.0}
        pairs = self._predicted(task, counts)
        scores = self.family.evaluate(pairs, self.run.context.labels) if rank() == 0 else {}
        deque(pairs, maxlen=0)  # takes part until all have predicted
        counts = total(counts)
        rejected = int(counts["read"] - counts["predicted"])
        if scores and self.gigaflops is not None:
            rows = int(counts["predicted"])
            scores = {**scores, "GFLOPs": Score(self.gigaflops, self.gigaflops, self.gigaflops, rows)}
        counted = {name: dataclasses.replace(s, dropped=s.dropped + rejected) for name, s in scores.items()}
        return agree(counted)

    def warm_start(self, task: Task) -> None:
        """Let the task see the training rows once, each worker a part of them."""
        examples = examples_of(self.recipe, self.family, self.run.context, lambda *_: None)
        task.warm_start(examples.stream(self._own_chunks("train")))

    def _own_chunks(self, split: str) -> Iterator[list[Row]]:
        """Yield every W-th batch of a split, in the order of the files: those of this worker."""
        size = self.recipe.sampling.batch_size
        return chunks(self.splits[split].select(lambda indices: indices // size % world_size() == rank()), size)

    def _predicted(self, task: Task, counts: dict[str, float]) -> Iterator[tuple[Batch, Outputs]]:
        """Yield, on rank 0, what all workers predict, a batch of each at a time."""
        batches = -(-self.run.rows["validation"] // self.recipe.sampling.batch_size)
        for role in ("gallery", "query") if self.run.augmented_queries else ("",):
            own = self._own_predicted(task, counts, role)
            for _ in range(-(-batches // world_size())):
                yield from (pair for pair in collect_objects(next(own, None)) if pair is not None)

    def _own_predicted(self, task: Task, counts: dict[str, float], role: str) -> Iterator[tuple[Batch, Outputs]]:
        """Yield what this worker predicts, of rows with this role, or with their own where it is empty."""
        count = int(role != "gallery")  # a row that is rejected in both roles is one

        def groups() -> Iterator[list[Row]]:
            for rows in self._own_chunks("validation"):
                counts["read"] += count * len(rows)
                yield [{**row, "role": role} for row in rows] if role else rows

        device = next(task.parameters()).device
        for batch in self.examples.stream(groups(), (self.recipe.seed,) if role == "query" else None):
            counts["predicted"] += count * len(next(iter(batch.values())))
            on_device = {name: value.to(device) for name, value in batch.items()}
            if self.gigaflops is None:
                outputs, self.gigaflops = predict_counting(task, on_device)
            else:
                outputs = task.predict(on_device)
            yield without_pictures(batch), {name: value.cpu() for name, value in outputs.items()}

    def _report_repeats(self, batches: int) -> None:
        reason = f"worker {rank()} has {batches} of {self.run.steps} batches an epoch, since rows were rejected"
        self.send(Reject("", f"{reason}: its first one is repeated; fix those rows", kept=True))

    def _reject(self, row: Row, reason: str) -> None:
        if row["id"] not in self.rejected:
            self.rejected.add(row["id"])
            self.send(Reject(row["id"], reason))
