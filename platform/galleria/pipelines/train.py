"""Trains a family on a data set with Ray Train, and keeps the best epoch's bundle."""

import contextlib
import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer, prepare_model
from ray.util.queue import Empty, Queue

from galleria.durable import replace_folder
from galleria.errors import ConfigurationError, GalleriaError
from galleria.learn.bundle import Bundle, save_bundle
from galleria.learn.examples import Examples, without_pictures
from galleria.learn.family import Context, Family, load_family
from galleria.learn.metrics.score import Score
from galleria.learn.model_card import model_card
from galleria.learn.recipe import Recipe
from galleria.learn.task import Batch, Outputs, Row, Task
from galleria.learn.training.loop import Report, TrainingState, fit
from galleria.learn.training.sampling import chunks, training_batches
from galleria.pipelines.cluster import ray_cluster
from galleria.pipelines.cluster_examples import ClusterExamples
from galleria.pipelines.datasets import ProductDataset, Source
from galleria.pipelines.rejects import Reject, write_rejects
from galleria.pipelines.worker_shard import WorkerShard

STATE_FILE = "state.pt"
CHECKPOINTS = "checkpoints"
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""glibc keeps freed memory: on CPUs a step otherwise gives back, and faults in again, all of its activations."""
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
class _Run:
    """What a worker needs to know of its run."""

    recipe: Recipe[Any]
    context: Context[Any]
    steps: int
    rows: Mapping[str, int]
    messages: Queue


@dataclass(frozen=True)
class Trained:
    """Result of a training run.

    Attributes:
        bundle: that of the best epoch.
        reports: one for each epoch that this call ran; a resumed run has those of the remaining epochs.
        rejects: rows left out or used in part.
    """

    bundle: Bundle
    reports: list[Report]
    rejects: list[Reject]


def train(
    recipe: Recipe[Any],
    source: Source,
    out: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    show: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train `recipe` on the splits "train" and "validation" of a data set.

    Writes `out/bundle`, `out/rejects.jsonl`, and `out/checkpoints`, which `resume` continues from. Each worker has
    a GPU if the cluster has enough of them.

    Args:
        recipe: what to train, and how.
        source: the data set.
        out: folder of the run.
        workers: number of training workers.
        resume: whether to continue the run in `out`.
        show: is called with the progress.

    Raises:
        ConfigurationError: `out` holds a run already and `resume` is not set, or the recipe cannot be built.
        DataError: the data set cannot be used.
        GalleriaError: training failed; the message names the cause.
    """
    out = out.resolve()
    if (out / CHECKPOINTS).exists() and not resume:
        raise ConfigurationError(f"{out} holds a training run already: continue it with --resume, or change --out")
    family = load_family(recipe.family)
    data = ProductDataset(source, family)
    steps = _steps_per_epoch(data, recipe, workers)
    context = family.context(recipe.model, data.rows("train"))
    reports: list[Report] = []
    rejects = set(data.rejects)
    with ray_cluster():
        messages = Queue(actor_options={"num_cpus": 0})
        run = _Run(recipe, context, steps, data.counts, messages)
        trainer = _trainer(run, data, out, workers)
        with _receive_messages(messages, reports, rejects, show):
            try:
                result = trainer.fit()
            except ray.train.TrainingFailedError as error:
                raise _cause(error) from error
        _save_best_bundle(result, recipe.stopping.metric, out)
    write_rejects(out, list(rejects))
    return Trained(Bundle.open(out / "bundle"), reports, sorted(rejects, key=lambda reject: reject.id))


def _steps_per_epoch(data: ProductDataset, recipe: Recipe[Any], workers: int) -> int:
    """Check that both splits have rows, and the training split a batch for each worker."""
    rows = data.require("train")
    data.require("validation")
    steps = rows // workers // recipe.sampling.batch_size
    if steps == 0:
        raise ConfigurationError(
            f"{rows} training rows on {workers} worker(s) do not fill one batch of {recipe.sampling.batch_size}: "
            "use a smaller batch_size or fewer workers"
        )
    return steps


def _trainer(run: _Run, data: ProductDataset, out: Path, workers: int) -> TorchTrainer:
    return TorchTrainer(
        _train_worker,
        train_loop_config={"run": ray.put(run)},  # by reference: Ray's controller would import the family to read it
        datasets={"train": data.stream("train"), "validation": data.stream("validation")},
        dataset_config=ray.train.DataConfig(datasets_to_split=["train"]),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=_enough_gpus(workers)),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # its stub is of Train V1
            name=CHECKPOINTS,
            storage_path=str(out),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            failure_config=ray.train.FailureConfig(max_failures=_max_failures()),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=run.recipe.stopping.metric, checkpoint_score_order="max"
            ),
        ),
    )


def _save_best_bundle(result: ray.train.Result, metric: str, out: Path) -> None:
    best = max(result.best_checkpoints or (), key=lambda checkpoint: checkpoint[1][metric])[0]
    with best.as_directory() as folder, tempfile.TemporaryDirectory(dir=out) as scratch:
        shutil.copytree(Path(folder) / "bundle", Path(scratch) / "bundle")
        replace_folder(Path(scratch) / "bundle", out / "bundle")


def untrained(recipe: Recipe[Any], source: Source, out: Path) -> Bundle:
    """Save the bundle of a recipe before its first step: a baseline for the trained one."""
    family = load_family(recipe.family)
    data = ProductDataset(source, family)
    context = family.context(recipe.model, data.rows("train"))
    torch.manual_seed(recipe.seed)
    task = family.build(context.config)
    return save_bundle(out, family, context, task, {}, model_card(recipe, {}, {}))


def _train_worker(config: Mapping[str, Any]) -> None:
    """Run one worker: connects Ray's streams and reports with `learn.training.loop.fit`."""
    run: _Run = ray.get(config["run"])
    recipe, context = run.recipe, run.context
    family = load_family(recipe.family)
    worker = ray.train.get_context()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // worker.get_local_world_size()))
    torch.manual_seed(recipe.seed)
    task = family.build(context.config)
    streams = {name: ray.train.get_dataset_shard(name) for name in ("train", "validation")}
    splits = {name: WorkerShard(stream, recipe.sampling.buffer) for name, stream in streams.items()}
    if ray.train.get_checkpoint() is None:
        _warm_start(task, recipe, family, context, splits["train"])
    ddp = {"find_unused_parameters": True}  # a batch may lack texts altogether
    model = prepare_model(task, parallel_strategy_kwargs=ddp)
    state = TrainingState(task, recipe, run.steps * recipe.stopping.epochs)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state.load_state_dict(torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True))
    batches = _Batches(recipe, family, context, splits, run.steps, run.messages)
    for report in fit(model, recipe, batches.training, batches.scores, state):
        metrics = {"epoch": report.epoch, **report.losses, **{k: score.value for k, score in report.scores.items()}}
        if worker.get_world_rank() != 0:
            ray.train.report(metrics)
            continue
        card = model_card(recipe, report.scores, run.rows)
        with tempfile.TemporaryDirectory() as scratch:
            save_bundle(Path(scratch) / "bundle", family, context, state.evaluated, report.scores, card)
            torch.save(state.state_dict(), Path(scratch) / STATE_FILE)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(scratch))
        batches.send(Progress(report.epoch, batches.steps, batches.steps, recipe.stopping.epochs, report))


def _warm_start(
    task: Task, recipe: Recipe[Any], family: Family[Any], context: Context[Any], rows: Iterable[Row]
) -> None:
    """Let the task see this worker's training rows once; DDP then copies the weights of rank 0."""
    groups = chunks(rows, recipe.sampling.batch_size)
    task.warm_start(examples_of(recipe, family, context, lambda *_: None).stream(groups))


def examples_of(
    recipe: Recipe[Any], family: Family[Any], context: Context[Any], reject: Callable[[Row, str], None]
) -> Examples:
    """Return what makes the batches of a run: this worker's threads or the cluster, as its recipe sets."""
    kind = ClusterExamples if recipe.sampling.decode_on == "cluster" else Examples
    return kind(family, context, recipe.sampling.threads, reject)


class _Batches:
    """Batches and scores of one worker, for the training loop."""

    def __init__(
        self,
        recipe: Recipe[Any],
        family: Family[Any],
        context: Context[Any],
        splits: Mapping[str, Iterable[Row]],
        steps: int,
        messages: Queue,
    ) -> None:
        self.recipe = recipe
        self.splits = splits
        self.family = family
        self.labels = context.labels
        self.steps = steps
        self.messages = messages
        self.rank = ray.train.get_context().get_world_rank()
        self.examples = examples_of(recipe, family, context, self._reject)
        self.rejected: set[str] = set()
        self.reported = 0.0

    def training(self, epoch: int) -> Iterator[Batch]:
        """Yield exactly `steps` batches. Workers must step together, so one that rejected rows repeats a batch."""
        generator = np.random.default_rng((self.recipe.seed, epoch, self.rank))
        groups = training_batches(self.splits["train"], self.recipe.sampling, generator)
        first: Batch | None = None
        repeats = False
        stream = self.examples.stream(groups, (self.recipe.seed, epoch))
        usable = (batch for batch in stream if len(next(iter(batch.values()))) >= 2)  # else without batch statistics
        for step in range(self.steps):
            batch = next(usable, None)
            if batch is None:
                if first is None:
                    return
                if not repeats:
                    self._report_repeats(step)
                batch, repeats = first, True
            first = first or batch
            yield batch
            if self.rank == 0 and time.monotonic() > self.reported + REPORT_INTERVAL_S:
                self.reported = time.monotonic()
                self.send(Progress(epoch, step + 1, self.steps, self.recipe.stopping.epochs))

    @torch.no_grad()
    def scores(self, task: Task) -> Mapping[str, Score]:
        """Score the full validation split; all workers get the scores of rank 0, so that they stop together."""
        task.eval()
        scores = self.family.evaluate(self._predicted(task), self.labels)
        return dict(broadcast_from_rank_zero(scores))

    def _predicted(self, task: Task) -> Iterator[tuple[Batch, Outputs]]:
        device = next(task.parameters()).device
        for batch in self.examples.stream(chunks(self.splits["validation"], self.recipe.sampling.batch_size)):
            outputs = task.predict({name: value.to(device) for name, value in batch.items()})
            yield without_pictures(batch), {name: value.cpu() for name, value in outputs.items()}

    def send(self, message: Progress | Reject) -> None:
        """Send a message to the driver, as bytes: else the queue's actor would import torch to hold it."""
        self.messages.put_nowait(pickle.dumps(message))

    def _report_repeats(self, batches: int) -> None:
        reason = f"worker {self.rank} has {batches} of {self.steps} batches an epoch, since rows were rejected"
        self.send(Reject("", f"{reason}: its first one is repeated; fix those rows", kept=True))

    def _reject(self, row: Row, reason: str) -> None:
        if row["id"] not in self.rejected:
            self.rejected.add(row["id"])
            self.send(Reject(row["id"], reason))


@contextlib.contextmanager
def _receive_messages(
    messages: Queue, reports: list[Report], rejects: set[Reject], show: Callable[[Progress], None]
) -> Iterator[None]:
    """Receive the workers' messages while the block runs, and the remaining ones at its end."""
    done = threading.Event()

    def listen() -> None:
        while True:
            finished = done.is_set()
            with contextlib.suppress(Empty):
                while True:
                    message = pickle.loads(messages.get(block=True, timeout=0.2))
                    if isinstance(message, Reject):
                        rejects.add(message)
                        continue
                    if message.report is not None:
                        reports.append(message.report)
                    show(message)
            if finished:
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        done.set()
        listener.join()
        messages.shutdown()


def _enough_gpus(workers: int) -> bool:
    return float(ray.cluster_resources().get("GPU", 0)) >= workers  # type: ignore[no-untyped-call]


def _max_failures() -> int:
    """Return 2 on a cluster, whose nodes may fail: a run continues from its checkpoint. Elsewhere failures repeat."""
    return 2 if os.environ.get("RAY_ADDRESS") else 0


def _cause(error: Exception) -> GalleriaError:
    """Return the user's mistake that made a run fail, or else the failure itself."""
    for failure in getattr(error, "worker_failures", {}).values():
        inner = getattr(failure, "cause", None) or failure
        if isinstance(inner, GalleriaError):
            return type(inner)(str(inner))
        return GalleriaError(f"training failed: {inner}")
    return GalleriaError(f"training failed: {error}")
