"""What the demo does in each room: its data, its recipes, the scores that it shows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galleria.demo.clips import prepare_clips
from galleria.demo.contours import prepare_contours
from galleria.demo.emotions import prepare_emotions
from galleria.demo.garments import prepare_garments
from galleria.demo.products import prepare_products
from galleria.demo.weights import prepare_image_weights, text_model_folder
from galleria.errors import ConfigurationError

RETRIEVAL = ("R@1", "R@5", "R@10", "mAP@R")


@dataclass(frozen=True)
class Folder:
    """Where a demo keeps its files: `data/`, and one folder a room."""

    path: Path

    @property
    def image_weights(self) -> str:
        """File of ImageNet weights."""
        return str((self.path / "data" / "image.safetensors").resolve())

    def bundle(self, family: str) -> str:
        """A room's trained bundle."""
        return str((self.path / family / "bundle").resolve())

    def prepare_weights(self) -> None:
        """Write the weights if they are missing."""
        if not Path(self.image_weights).exists():
            prepare_image_weights(Path(self.image_weights))


@dataclass(frozen=True)
class Room:
    """One family in the demo.

    Attributes:
        family: its name.
        about: what is trained, in a line.
        prepare: writes the data.
        data: name of the file that it writes.
        options: arguments of the recipe `demo`.
        baseline: arguments of the recipe `frozen`.
        trains: the baseline is trained, too: a head on features that are kept as they are.
        shown: scores to show; those of "majority/…" and "prevalence/…" need no model.
        category_depth: levels that every row must have.
    """

    family: str
    about: str
    prepare: Callable[[Path], int]
    data: str
    options: Callable[[Folder], Mapping[str, Any]]
    baseline: Callable[[Folder], Mapping[str, Any]]
    shown: tuple[str, ...]
    trains: bool = False
    category_depth: int | None = None


def _weights(folder: Folder) -> Mapping[str, Any]:
    return {"image_weights": folder.image_weights}


def _nothing(_: Folder) -> Mapping[str, Any]:
    return {}


TEXT_GUIDED = Room(
    family="text_guided",
    about="texts guide the picture encoder",
    prepare=prepare_products,
    data="products.parquet",
    options=lambda folder: {"image_weights": folder.image_weights, "text_model": str(text_model_folder())},
    baseline=_weights,
    shown=tuple(f"{query}/{metric}" for query in ("twemoji", "openmoji", "text") for metric in RETRIEVAL),
    category_depth=2,
)

OTHERS = (
    Room(
        family="category_tree",
        about="a level of the feature pyramid for every level of the category tree",
        prepare=prepare_products,
        data="products.parquet",
        options=_weights,
        baseline=_weights,
        shown=tuple(f"{query}/{metric}" for query in ("twemoji", "openmoji") for metric in RETRIEVAL),
        category_depth=2,
    ),
    Room(
        family="aesthetic_emotion",
        about="two linked branches tell technical quality and emotion",
        prepare=prepare_emotions,
        data="emotions.parquet",
        options=_weights,
        baseline=_weights,
        shown=(),
        trains=True,
    ),
    Room(
        family="contour",
        about="multi-level features that know contours",
        prepare=prepare_contours,
        data="contours.parquet",
        options=_nothing,
        baseline=_nothing,
        shown=("readout/ODS", "readout/OIS"),
    ),
    Room(
        family="garment_gender",
        about="a network beside frozen contour features tells for whom a garment is made",
        prepare=prepare_garments,
        data="garments.parquet",
        options=lambda folder: {"image_weights": folder.image_weights, "contour_bundle": folder.bundle("contour")},
        baseline=_weights,
        shown=(),
        trains=True,
    ),
    Room(
        family="video_event",
        about="attention over sparse frames tells the events of a video",
        prepare=prepare_clips,
        data="clips.parquet",
        options=_weights,
        baseline=_weights,
        shown=(),
        trains=True,
    ),
)
"""In this order: `garment_gender` stands on the bundle of `contour`."""


def chosen_rooms(names: Sequence[str], every: bool) -> list[Room]:
    """The rooms of these families beside product search, or all of them, each after those that it builds on.

    Raises:
        ConfigurationError: there is no such room, or it builds on one that was not chosen.
    """
    known = [room.family for room in OTHERS]
    for name in names:
        if name not in known:
            raise ConfigurationError(f"--family {name!r} is none of {', '.join(known)}")
    if "garment_gender" in names and "contour" not in names and not every:
        raise ConfigurationError("--family garment_gender reads contours: add --family contour")
    return [room for room in OTHERS if every or room.family in names]
