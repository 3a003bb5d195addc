"""The one training loop: a generator of epoch reports, independent of Ray."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from galleria.errors import ConfigurationError, GalleriaError
from galleria.learn.metrics.score import Score
from galleria.learn.recipe import Optimization, Recipe, Stopping
from galleria.learn.task import Batch, Task
from galleria.learn.training.data_parallel import gather_objects, rank, total, world_size


@dataclass
class EpochLosses:
    """Sums of every scalar output over the steps of an epoch that had it, of this worker."""

    values: dict[str, torch.Tensor | float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, outputs: Mapping[str, torch.Tensor]) -> None:
        """Add the outputs of a step."""
        for name, value in outputs.items():
            if value.ndim == 0:
                self.values[name] = self.values.get(name, 0.0) + value.detach()
                self.counts[name] += 1

    def sums(self) -> dict[str, float]:
        """Return the sums as numbers."""
        return {name: float(value) for name, value in self.values.items()}

    def means(self) -> dict[str, float]:
        """Return the means over the steps of all workers."""
        sums, counts = total(self.sums()), total(self.counts)
        return {name: value / counts[name] for name, value in sums.items()}


@dataclass(frozen=True)
class Report:
    """The result of one epoch.

    Attributes:
        epoch: epochs completed.
        steps: steps of this epoch.
        seconds: wall time of its training part, from requesting the first batch to the last step.
        losses: mean of every scalar that the task's `forward` returned, by name.
        scores: validation scores.
        improved: the monitored score is the best so far.
        stop: why this epoch is the last: "epochs", "converged" or None.
    """

    epoch: int
    steps: int
    seconds: float
    losses: Mapping[str, float]
    scores: Mapping[str, Score]
    improved: bool
    stop: str | None


class TrainingState:
    """Everything that a run changes: weights, their average, optimizer and counters. Runs resume from it.

    Attributes:
        epoch: epochs completed.
        batch: batches of the present epoch that were trained on.
        step: batches that were trained on.
        stopped: why the run has ended.
    """

    def __init__(self, task: Task, recipe: Recipe[Any], total_steps: int) -> None:
        self.task = task
        self.total_steps = max(1, total_steps)
        self._steps_per_epoch = self.total_steps / recipe.stopping.epochs
        freeze(task, recipe.optimization)
        self.optimizer = torch.optim.AdamW(_parameter_groups(task, recipe.optimization))
        decay = recipe.optimization.average_decay
        self.average = ModelEmaV3(task, decay=decay, use_warmup=True) if decay else None
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.best = -math.inf
        self.stale = 0
        self.stopped: str | None = None
        self.losses = EpochLosses()
        self._random: list[torch.Tensor] = []

    @property
    def evaluated(self) -> Task:
        """Return the weights to evaluate and save: the moving average where there is one."""
        return self.average.module if self.average is not None else self.task

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, so that they load with `weights_only=True`.

        All workers of a run must call it together: each has its own random numbers.
        """
        own = {"random": _random_states(), "sums": self.losses.sums(), "counts": dict(self.losses.counts)}
        return {
            "workers": gather_objects(own),
            "steps_per_epoch": self._steps_per_epoch,
            "task": self.task.state_dict(),
            "average": self.average.module.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; with another number of workers, the counts of steps are scaled."""
        self.task.load_state_dict(state["task"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in COUNTERS:
            setattr(self, name, state["counters"].get(name, 0))
        if "workers" not in state:  # of 0.1, which saved between epochs
            return
        scale = self._steps_per_epoch / state["steps_per_epoch"]
        self.step, self.batch = round(self.step * scale), round(self.batch * scale)
        if len(state["workers"]) == world_size():
            own = state["workers"][rank()]
            self._random = own["random"]
            self.losses = EpochLosses(dict(own["sums"]), Counter(own["counts"]))

    def start_epoch(self, seed: int) -> None:
        """Seed this worker's random numbers, or continue with those of the epoch that was interrupted."""
        if self.batch == 0:
            self.losses = EpochLosses()
        if self.batch and self._random:
            torch.set_rng_state(self._random[0])
            if torch.cuda.is_available() and len(self._random) > 1:
                torch.cuda.set_rng_state(self._random[1])
        else:
            torch.manual_seed(seed * 100_003 + self.epoch + SEED_STRIDE * rank())  # each has its own dropout


SEED_STRIDE = 2**40
"""Between the seeds of two workers of a run."""
COUNTERS = ("epoch", "batch", "step", "best", "stale", "stopped")


def fit(
    task: nn.Module,
    recipe: Recipe[Any],
    batches: Callable[[int], Iterable[Batch]],
    evaluate: Callable[[Task], Mapping[str, Score]],
    state: TrainingState,
    after_step: Callable[[], None] = lambda: None,
) -> Iterator[Report]:
    """Train until a stop rule applies, yielding once an epoch; the caller may save `state` then and after any step.

    Args:
        task: `state.task`, or its wrapper for distributed training.
        recipe: the run.
        batches: epoch → its training batches from number `state.batch` on, any device.
        evaluate: scores of the validation set; every worker of a distributed run must return the same.
        state: fresh, or loaded from a checkpoint to resume.
        after_step: is called after every step.

    Raises:
        GalleriaError: an epoch had no batch, or its loss or the monitored score was not finite.
        ConfigurationError: the monitored metric is not among the scores, or has no value before the first step.
    """
    _continue_if_extended(state, recipe.stopping)
    if state.step == 0:
        _check_monitored(evaluate(state.evaluated.eval()), recipe.stopping.metric)
    while state.stopped is None:
        state.start_epoch(recipe.seed)
        start = time.perf_counter()
        losses = _train_epoch(task, recipe, batches(state.epoch), state, after_step)
        seconds, steps = time.perf_counter() - start, state.batch
        scores = evaluate(state.evaluated.eval())
        improved = _count_epoch(state, recipe.stopping, scores)
        yield Report(state.epoch, steps, seconds, losses, scores, improved, state.stopped)


def _train_epoch(
    task: nn.Module,
    recipe: Recipe[Any],
    batches: Iterable[Batch],
    state: TrainingState,
    after_step: Callable[[], None],
) -> Mapping[str, float]:
    """Make one pass over `batches`; return the mean of every scalar output, over all workers' steps that had it."""
    optimization = recipe.optimization
    device = next(state.task.parameters()).device
    mixed = optimization.precision == "bfloat16" and device.type == "cuda"
    trained = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    task.train()
    for batch in batches:
        _set_rate(state, optimization)
        on_device = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            outputs = task(on_device)
        state.optimizer.zero_grad(set_to_none=True)
        outputs["loss"].backward()
        nn.utils.clip_grad_norm_(trained, optimization.clip_norm)
        state.optimizer.step()
        state.step += 1
        state.batch += 1
        if state.average is not None:
            state.average.update(state.task, step=state.step)
        state.losses.add(outputs)
        after_step()
    losses = state.losses.means()
    _check(losses, state)
    return losses


def _count_epoch(state: TrainingState, stopping: Stopping, scores: Mapping[str, Score]) -> bool:
    """Count the epoch, apply the stop rules, and return whether it is the best so far."""
    value = scores[stopping.metric].value
    if not math.isfinite(value):
        raise GalleriaError(
            f"training diverged: {stopping.metric} is {value} after epoch {state.epoch + 1}: lower learning_rate"
        )
    improved = value > state.best + stopping.min_delta
    state.epoch += 1
    state.batch = 0
    state.best = value if improved else state.best
    state.stale = 0 if improved else state.stale + 1
    if state.stale >= stopping.patience:
        state.stopped = "converged"
    elif state.epoch >= stopping.epochs:
        state.stopped = "epochs"
    return improved


def _random_states() -> list[torch.Tensor]:
    """Return the states of the generators of this worker: of its CPU, and of its GPU if it has one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def _continue_if_extended(state: TrainingState, stopping: Stopping) -> None:
    """Let a run that had ended go on if it was resumed with more epochs or patience."""
    if state.epoch < stopping.epochs and (state.stopped == "epochs" or state.stale < stopping.patience):
        state.stopped = None


def _check_monitored(scores: Mapping[str, Score], metric: str) -> None:
    if not scores:
        raise GalleriaError("no row of the validation split can be used: rejects.jsonl says why")
    defined = ", ".join(name for name, score in scores.items() if math.isfinite(score.value)) or "none"
    if metric not in scores:
        raise ConfigurationError(f"the recipe monitors {metric!r}, but the validation scores are {', '.join(scores)}")
    if not math.isfinite(scores[metric].value):
        raise ConfigurationError(
            f"the recipe monitors {metric!r}, which has no value on the validation split: monitor one of {defined}, or "
            "add the rows that it needs"
        )


def _check(losses: Mapping[str, float], state: TrainingState) -> None:
    if not losses:
        raise GalleriaError("an epoch had no batch: use a smaller batch_size or more training rows")
    if not math.isfinite(losses["loss"]):
        raise GalleriaError(
            f"training diverged: the loss of epoch {state.epoch} is {losses['loss']}: lower learning_rate"
        )


def freeze(task: Task, optimization: Optimization) -> None:
    """Stop the gradients of the groups whose rate is 0.

    Before a task is wrapped for distributed training: its workers would exchange the gradients that nobody uses.

    Raises:
        ConfigurationError: the recipe sets the rate of a group that the task lacks.
    """
    groups = task.parameter_groups()
    unknown = optimization.rates.keys() - groups.keys()
    if unknown:
        raise ConfigurationError(
            f"the recipe sets rates for {', '.join(sorted(unknown))}, but the task's groups are {', '.join(groups)}"
        )
    for name, parameters in groups.items():
        if optimization.rates.get(name) == 0:
            for parameter in parameters:
                parameter.requires_grad_(False)


def _parameter_groups(task: Task, optimization: Optimization) -> list[dict[str, Any]]:
    """Return optimizer groups: each of the task's with and without weight decay; gains and biases never decay."""
    result = []
    for name, parameters in task.parameter_groups().items():
        rate = optimization.rates.get(name, 1.0)
        if rate == 0:
            continue
        for decay, members in (
            (optimization.weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            if members:
                peak = optimization.learning_rate * rate
                result.append({"params": members, "lr": peak, "peak": peak, "weight_decay": decay})
    if not result:
        raise ConfigurationError("nothing would be trained: set the rate of at least one group above 0")
    return result


def _set_rate(state: TrainingState, optimization: Optimization) -> None:
    progress = min(1.0, state.step / state.total_steps)
    if progress < optimization.warmup:
        factor = (state.step + 1) / (optimization.warmup * state.total_steps + 1)
    else:
        decay = (progress - optimization.warmup) / (1 - optimization.warmup)
        factor = 0.5 * (1 + math.cos(math.pi * decay))
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak"] * factor
