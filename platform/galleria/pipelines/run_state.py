"""What a training run leaves on disk to be resumed from: its recipe, and checkpoints with the best bundle so far."""

import json
import math
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
import torch

from galleria.durable import write_atomically
from galleria.errors import ConfigurationError, GalleriaError
from galleria.learn.bundle import Bundle
from galleria.learn.recipe import Recipe
from galleria.learn.training.data_parallel import rank

STATE_FILE = "state.pt"
RECIPE_FILE = "recipe.json"
BUNDLE = "bundle"
CHANGEABLE = ("stopping.epochs", "stopping.patience", "sampling.threads", "sampling.decode_on")
"""Fields of a recipe that a resumed run may have others of: the schedule follows."""


def save_recipe(recipe: Recipe[Any], out: Path) -> None:
    """Write the recipe of a run to its folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / RECIPE_FILE, json.dumps(recipe.model_dump(mode="json"), indent=2).encode())


def check_recipe(recipe: Recipe[Any], out: Path) -> None:
    """Check that a run is resumed with its own recipe. A run of 0.1, which has none, passes.

    Fields that a newer version added have their defaults.

    Raises:
        ConfigurationError: other fields than `CHANGEABLE` differ; the message names them.
    """
    path = out / RECIPE_FILE
    if not path.exists():
        return
    saved = Recipe[type(recipe.model)].model_validate_json(path.read_bytes())  # type: ignore[misc]
    before, now = (_fields(values.model_dump(mode="json")) for values in (saved, recipe))
    changed = [
        f"{name} (was {before.get(name)!r}, is {now.get(name)!r})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in CHANGEABLE
    ]
    if changed:
        raise ConfigurationError(
            f"{out} was trained with another recipe: {'; '.join(changed)}. Resume it with its own values, or train "
            f"anew in another --out; only {', '.join(CHANGEABLE)} and --workers may change"
        )


class Checkpoints:
    """Checkpoints of one worker: the state, and on rank 0 the bundle of the best epoch so far.

    Args:
        metric: score whose largest value is the best; of equal ones, the later.
        warn: is called with a line about a checkpoint that is damaged.
    """

    def __init__(self, metric: str, warn: Callable[[str], None]) -> None:
        self._metric = metric
        self._warn = warn
        self._folder = tempfile.TemporaryDirectory()
        self._best = Path(self._folder.name) / BUNDLE

    def keep_if_best(self, save: Callable[[Path], object], value: float) -> None:
        """Save the bundle of an epoch, if its score is the best so far."""
        if self._best.exists() and _order(value) < _order(_value(self._best, self._metric)):
            return
        shutil.rmtree(self._best, ignore_errors=True)
        save(self._best)

    def report(self, state: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """Report metrics to Ray, on rank 0 with a checkpoint. All workers must call it together."""
        if rank() != 0:
            ray.train.report(dict(metrics))
            return
        with tempfile.TemporaryDirectory() as scratch:
            torch.save(state, Path(scratch) / STATE_FILE)
            if self._best.exists():
                shutil.copytree(self._best, Path(scratch) / BUNDLE)
            ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(scratch))

    def restore(self) -> Mapping[str, Any] | None:
        """Return the newest state that can be read, and take its bundle; None where the run begins."""
        if ray.train.get_checkpoint() is None:
            return None
        checkpoints = [reported.checkpoint for reported in ray.train.get_all_reported_checkpoints()]
        folders = [Path(checkpoint.path) for checkpoint in checkpoints]
        state, number = newest_state(folders, self._warn if rank() == 0 else lambda _: None)
        if rank() == 0:
            bundle = best_bundle(folders[: number + 1], self._metric)
            if bundle is not None:
                shutil.copytree(bundle, self._best)
        return state


def newest_state(folders: Sequence[Path], warn: Callable[[str], None]) -> tuple[Mapping[str, Any], int]:
    """Return the state of the newest checkpoint that can be read, and its number; warn about those that cannot.

    Args:
        folders: of the checkpoints, oldest first.
        warn: is called with a line about each that is damaged.

    Raises:
        GalleriaError: none can be read.
    """
    for number in reversed(range(len(folders))):
        try:
            return torch.load(folders[number] / STATE_FILE, map_location="cpu", weights_only=True), number
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warn(f"the checkpoint {folders[number]} is damaged, the one before it is used: {reason}")
    raise GalleriaError("no checkpoint of this run can be read: train anew in another --out")


def best_bundle(folders: Iterable[Path], metric: str) -> Path | None:
    """Return the bundle with the best score among checkpoints, oldest first; those of 0.1 have each epoch's own."""
    bundles = [folder / BUNDLE for folder in folders if (folder / BUNDLE).exists()]
    if not bundles:
        return None
    return max(reversed(bundles), key=lambda bundle: _order(_value(bundle, metric)))


def _value(bundle: Path, metric: str) -> float:
    return Bundle.open(bundle).metrics[metric].value


def _order(value: float) -> tuple[bool, float]:
    """Order scores; NaN is the worst."""
    return (False, 0.0) if math.isnan(value) else (True, value)


def _fields(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            fields |= _fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields
