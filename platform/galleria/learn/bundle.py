"""A bundle: one folder with everything needed to run a model. Safetensors and JSON only."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from galleria.durable import replace_folder
from galleria.errors import BundleError, GalleriaError
from galleria.files import sha256
from galleria.learn.bundle_manifest import (
    FORMAT,
    MANIFEST,
    PREPROCESSOR,
    UNREADABLE,
    identity,
    read_bundle_manifest,
    read_json,
)
from galleria.learn.family import Context, Family, load_family
from galleria.learn.metrics.calibration import temperatures
from galleria.learn.metrics.score import Score

if TYPE_CHECKING:
    from galleria.learn.task import Task


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk.

    Attributes:
        path: its folder.
        family: the family that built it.
        context: config, labels and preprocessing files.
        metrics: scores it was saved with.
        hash: sha256 over everything that decides its outputs; an index records the hash it was built with.
    """

    path: Path
    family: Family[Any]
    context: Context[Any]
    metrics: Mapping[str, Score]
    hash: str

    @classmethod
    def open(cls, path: Path | str) -> "Bundle":
        """Check every file against the manifest, then read all but the weights.

        Raises:
            BundleError: not a bundle, damaged, or written by a newer version.
        """
        path = Path(path)
        manifest = read_bundle_manifest(path)
        try:
            config = read_json(path / "config.json")
            family = load_family(config["family"])
            _reject_external_weights(config["model"])
            context = Context(
                family.config.model_validate(config["model"]),
                {name: tuple(values) for name, values in read_json(path / "labels.json").items()},
                {
                    name.removeprefix(PREPROCESSOR): (path / name).read_bytes()
                    for name in sorted(manifest["files"])
                    if name.startswith(PREPROCESSOR)
                },
            )
            metrics = {name: Score(**score) for name, score in read_json(path / "metrics.json").items()}
        except (*UNREADABLE, GalleriaError) as error:
            raise BundleError(f"bundle {path}: its description cannot be read ({error})") from error
        return cls(path, family, context, metrics, manifest["hash"])

    def task(self) -> "Task":
        """Build the network with its weights, in evaluation mode on the CPU.

        Raises:
            BundleError: the weights do not fit the configuration.
        """
        from safetensors.torch import load_file

        task = self.family.build(self.context.config)
        try:
            task.load_state_dict(load_file(self.path / "model.safetensors"))
        except (RuntimeError, SafetensorError, OSError) as error:
            raise BundleError(f"bundle {self.path}: the weights do not fit the configuration ({error})") from error
        return task.eval()


def save_bundle(
    path: Path | str,
    family: Family[Any],
    context: Context[Any],
    task: "Task",
    metrics: Mapping[str, Score],
    card: str,
) -> Bundle:
    """Write the exported part of `task` as a bundle; the folder appears as a whole or not at all.

    `context.config` may describe the network as trained: the exported network's own config is what is saved. The
    temperatures among `metrics`, which are its validation scores, scale the probabilities that it serves.
    """
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        folder = Path(scratch) / "bundle"
        (folder / "preprocessor").mkdir(parents=True)
        exported = task.exported().calibrated(temperatures(metrics))
        weights = {name: value.detach().cpu().contiguous() for name, value in exported.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        description = {
            "format": FORMAT,
            "family": family.name,
            "model": exported.config.model_dump(mode="json"),
        }
        _write_json(folder / "config.json", description)
        _write_json(folder / "labels.json", context.labels)
        _write_json(folder / "metrics.json", {name: asdict(score) for name, score in metrics.items()})
        (folder / "README.md").write_text(card, encoding="utf-8")
        for name, content in context.files.items():
            (folder / "preprocessor" / name).write_bytes(content)
        files = {str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
        _write_json(folder / MANIFEST, {"format": FORMAT, "files": files, "hash": identity(files)})
        replace_folder(folder, path)
    return Bundle.open(path)


def _reject_external_weights(config: Any) -> None:
    """Reject a config that names weights in a file or a hub: whoever opens the bundle would fetch from there."""
    if isinstance(config, list):
        for part in config:
            _reject_external_weights(part)
    elif isinstance(config, dict):
        if config.get("weights", "none") != "none":
            raise BundleError(f"it asks for weights from {config['weights']!r}, outside the bundle")
        for part in config.values():
            _reject_external_weights(part)


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
