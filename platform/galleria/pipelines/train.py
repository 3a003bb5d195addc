"""Trains a family on a data set with Ray Train, and keeps the best epoch's bundle."""

import contextlib
import functools
import os
import pickle
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.data
import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Empty, Queue

from galleria.durable import replace_folder
from galleria.errors import ConfigurationError, GalleriaError
from galleria.learn.bundle import Bundle, save_bundle
from galleria.learn.family import load_family
from galleria.learn.model_card import model_card
from galleria.learn.recipe import Recipe
from galleria.learn.task import Batch
from galleria.learn.training.data_parallel import agree, wrap
from galleria.learn.training.loop import Report, TrainingState, fit, freeze
from galleria.pipelines.cluster import ray_cluster
from galleria.pipelines.datasets import ProductDataset, Source
from galleria.pipelines.gpus import ClusterGpus, Gpus
from galleria.pipelines.rejects import Reject, write_rejects
from galleria.pipelines.run_state import Checkpoints, best_bundle, check_recipe, save_recipe
from galleria.pipelines.shuffling import exceeds_buffer, groups_of_rows, training_stream
from galleria.pipelines.single_pictures import needs_augmented_queries, with_views
from galleria.pipelines.worker_batches import Progress, Run, WorkerBatches
from galleria.pipelines.worker_shard import WorkerShard

__all__ = ["Progress", "Trained", "train", "untrained"]

CHECKPOINTS = "checkpoints"
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""glibc keeps freed memory: on CPUs a step otherwise gives back, and faults in again, all of its activations."""


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
    gpus: Gpus = "auto",
    resume: bool = False,
    checkpoint_minutes: float = 30,
    show: Callable[[Progress], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Train `recipe` on the splits "train" and "validation" of a data set.

    Writes `out/bundle`, `out/rejects.jsonl`, and `out/checkpoints`, which `resume` continues from.

    Args:
        recipe: what to train, and how.
        source: the data set.
        out: folder of the run.
        workers: number of training workers.
        gpus: as many as workers, or 0, or "auto": one for each worker if the cluster has GPUs or can start them.
        resume: whether to continue the run in `out`; its recipe must be the same, but for epochs and patience.
        checkpoint_minutes: interval of checkpoints inside an epoch, besides those at its end.
        show: is called with the progress.
        log: is called with a line about the resources that are used.

    Raises:
        ConfigurationError: `out` holds a run already and `resume` is not set, the recipe cannot be built, or the
            cluster cannot have the GPUs.
        DataError: the data set cannot be used.
        GalleriaError: training failed; the message names the cause.
    """
    out = out.resolve()
    resumed = (out / CHECKPOINTS).exists()
    if resumed and not resume:
        raise ConfigurationError(f"{out} holds a training run already: continue it with --resume, or change --out")
    family = load_family(recipe.family)
    data = ProductDataset(source, family)
    data.require("train")
    data.require("validation")
    recipe = with_views(recipe, data)
    if resumed:
        check_recipe(recipe, out)
    augmented_queries = needs_augmented_queries(recipe, family, data)
    steps = _steps_per_epoch(data, recipe, workers)
    context = family.context(recipe.model, data.rows("train"))
    reports: list[Report] = []
    rejects = set(data.rejects)
    notices: list[str] = []
    with ray_cluster():
        cluster = ClusterGpus.connected()
        gpus_used = cluster.to_train(gpus, workers)
        log(f"training with {workers} worker(s), {cluster.describe(gpus_used)}")
        save_recipe(recipe, out)
        messages = Queue(actor_options={"num_cpus": 0})
        groups = groups_of_rows(data, recipe, workers)
        run = Run(recipe, context, steps, data.counts, groups, augmented_queries, checkpoint_minutes)
        if exceeds_buffer(data, recipe):
            log(f"shuffling {data.counts['train']:,} rows, more than fit into the buffer ({recipe.sampling.buffer:,})")
        streams = {"train": training_stream(data, recipe), "validation": data.stream("validation")}
        trainer = _trainer(run, messages, streams, out, _scaling(recipe, workers, gpus_used))
        try:
            with _receive_messages(messages, reports, rejects, notices, show):
                result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _cause(error) from error
        finally:
            write_rejects(out, list(rejects))  # they may be why it failed
        _save_best_bundle(result, recipe.stopping.metric, out)
    for notice in notices:
        warnings.warn(notice, RuntimeWarning, stacklevel=2)
    return Trained(Bundle.open(out / "bundle"), reports, sorted(rejects, key=lambda reject: reject.id))


def _steps_per_epoch(data: ProductDataset, recipe: Recipe[Any], workers: int) -> int:
    """Check that the training split has a batch for each worker."""
    rows = data.counts["train"]
    steps = rows * recipe.sampling.views // workers // recipe.sampling.batch_size
    if steps == 0:
        raise ConfigurationError(
            f"{rows} training rows on {workers} worker(s) do not fill one batch of {recipe.sampling.batch_size}: "
            "use a smaller batch_size or fewer workers"
        )
    return steps


def _scaling(recipe: Recipe[Any], workers: int, gpus: int) -> ray.train.ScalingConfig:
    """Return the resources of the workers: on a GPU, the CPUs that decode for it."""
    if not gpus:
        return ray.train.ScalingConfig(num_workers=workers)
    cpus = recipe.sampling.threads if recipe.sampling.decode_on == "worker" else 1
    return ray.train.ScalingConfig(
        num_workers=workers, use_gpu=True, resources_per_worker={"CPU": cpus, "GPU": gpus / workers}
    )


def _trainer(
    run: Run,
    messages: Queue,
    streams: Mapping[str, ray.data.Dataset],
    out: Path,
    scaling: ray.train.ScalingConfig,
) -> TorchTrainer:
    return TorchTrainer(
        _train_worker,
        # The run by reference: Ray's controller would import the family to read it.
        train_loop_config={"run": ray.put(run), "messages": messages},
        datasets=dict(streams),
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # its stub is of Train V1
            name=CHECKPOINTS,
            storage_path=str(out),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            failure_config=ray.train.FailureConfig(max_failures=_max_failures()),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),  # the newest; one may be damaged
        ),
    )


def _save_best_bundle(result: ray.train.Result, metric: str, out: Path) -> None:
    checkpoints = [Path(checkpoint.path) for checkpoint, _ in result.best_checkpoints or ()]
    best = best_bundle(checkpoints, metric)
    assert best is not None, "a run that has ended has a bundle"
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        shutil.copytree(best, Path(scratch) / "bundle")
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
    run: Run = ray.get(config["run"])
    recipe, context = run.recipe, run.context
    family = load_family(recipe.family)
    worker = ray.train.get_context()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // worker.get_local_world_size()))
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    streams = {name: ray.train.get_dataset_shard(name) for name in ("train", "validation")}
    splits = {name: WorkerShard(stream, recipe.sampling.buffer) for name, stream in streams.items()}
    batches = WorkerBatches(run, splits, functools.partial(_send, config["messages"]))
    torch.manual_seed(recipe.seed)
    task = family.build(context.config)
    checkpoints = Checkpoints(recipe.stopping.metric, batches.send)
    restored = checkpoints.restore()
    if restored is None:
        batches.warm_start(task)
    freeze(task, recipe.optimization)
    model = wrap(task.to(device), recipe.optimization.sync_batch_norm)
    state = TrainingState(task, recipe, run.steps * recipe.stopping.epochs)
    if restored is not None:
        state.load_state_dict(restored)
    due = time.monotonic() + run.checkpoint_minutes * 60

    def save_when_due() -> None:
        nonlocal due
        if agree(time.monotonic() >= due):
            checkpoints.report(state.state_dict(), {"epoch": state.epoch, "batch": state.batch})
            due = time.monotonic() + run.checkpoint_minutes * 60

    def training(epoch: int) -> Iterator[Batch]:
        return batches.training(epoch, state.batch)

    for report in fit(model, recipe, training, batches.scores, state, save_when_due):
        scores = {name: score.value for name, score in report.scores.items()}
        if worker.get_world_rank() == 0:
            card = model_card(recipe, report.scores, run.rows)
            save = functools.partial(
                save_bundle, family=family, context=context, task=state.evaluated, metrics=report.scores, card=card
            )
            checkpoints.keep_if_best(save, scores[recipe.stopping.metric])
        checkpoints.report(state.state_dict(), {"epoch": report.epoch, **report.losses, **scores})
        if worker.get_world_rank() == 0:
            batches.send(Progress(report.epoch, run.steps, run.steps, recipe.stopping.epochs, report))


def _send(messages: Queue, message: Progress | Reject | str) -> None:
    """Send a message to the driver, as bytes: else the queue's actor would import torch to hold it."""
    messages.put_nowait(pickle.dumps(message))


@contextlib.contextmanager
def _receive_messages(
    messages: Queue,
    reports: list[Report],
    rejects: set[Reject],
    notices: list[str],
    show: Callable[[Progress], None],
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
                    if isinstance(message, str):
                        notices.append(message)
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
