"""What the demo does with each family: its data, its recipes, the scores that it shows."""

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
class DemoFolder:
    """Where a demo keeps its files: `data/`, and one folder per family."""

    path: Path

    @property
    def image_weights(self) -> str:
        """Path of the ImageNet weights."""
        return str((self.path / "data" / "image.safetensors").resolve())

    def bundle(self, family: str) -> str:
        """Return the path of a family's trained bundle."""
        return str((self.path / family / "bundle").resolve())

    def prepare_weights(self) -> None:
        """Write the weights if they are missing."""
        if not Path(self.image_weights).exists():
            prepare_image_weights(Path(self.image_weights))


@dataclass(frozen=True)
class DemoFamily:
    """One family in the demo.

    Attributes:
        name: of the family.
        description: what is trained, in a line.
        prepare: writes the data.
        data_file: name of the file that it writes.
        recipe_options: arguments of the recipe `demo`.
        baseline_options: arguments of the recipe `frozen`.
        displayed_scores: scores to show, empty for all; those of "majority/…" and "prevalence/…" need no model.
        trains_baseline: the baseline is trained, too: a head on frozen features.
        category_depth: levels that every row must have.
    """

    name: str
    description: str
    prepare: Callable[[Path], int]
    data_file: str
    recipe_options: Callable[[DemoFolder], Mapping[str, Any]]
    baseline_options: Callable[[DemoFolder], Mapping[str, Any]]
    displayed_scores: tuple[str, ...]
    trains_baseline: bool = False
    category_depth: int | None = None


def _image_weights(folder: DemoFolder) -> Mapping[str, Any]:
    return {"image_weights": folder.image_weights}


def _no_options(_: DemoFolder) -> Mapping[str, Any]:
    return {}


TEXT_GUIDED = DemoFamily(
    name="text_guided",
    description="texts guide the image encoder",
    prepare=prepare_products,
    data_file="products.parquet",
    recipe_options=lambda folder: {"image_weights": folder.image_weights, "text_model": str(text_model_folder())},
    baseline_options=_image_weights,
    displayed_scores=tuple(f"{query}/{metric}" for query in ("twemoji", "openmoji", "text") for metric in RETRIEVAL),
    category_depth=2,
)

OPTIONAL_FAMILIES = (
    DemoFamily(
        name="category_tree",
        description="a level of the feature pyramid for every level of the category tree",
        prepare=prepare_products,
        data_file="products.parquet",
        recipe_options=_image_weights,
        baseline_options=_image_weights,
        displayed_scores=tuple(f"{query}/{metric}" for query in ("twemoji", "openmoji") for metric in RETRIEVAL),
        category_depth=2,
    ),
    DemoFamily(
        name="aesthetic_emotion",
        description="two linked branches predict technical quality and emotion",
        prepare=prepare_emotions,
        data_file="emotions.parquet",
        recipe_options=_image_weights,
        baseline_options=_image_weights,
        displayed_scores=(),
        trains_baseline=True,
    ),
    DemoFamily(
        name="contour",
        description="multi-level features trained to predict contours",
        prepare=prepare_contours,
        data_file="contours.parquet",
        recipe_options=_no_options,
        baseline_options=_no_options,
        displayed_scores=("readout/ODS", "readout/OIS"),
    ),
    DemoFamily(
        name="garment_gender",
        description="a network next to frozen contour features predicts for whom a garment is made",
        prepare=prepare_garments,
        data_file="garments.parquet",
        recipe_options=lambda folder: {
            "image_weights": folder.image_weights,
            "contour_bundle": folder.bundle("contour"),
        },
        baseline_options=_image_weights,
        displayed_scores=(),
        trains_baseline=True,
    ),
    DemoFamily(
        name="video_event",
        description="attention over sparse frames predicts the events of a video",
        prepare=prepare_clips,
        data_file="clips.parquet",
        recipe_options=_image_weights,
        baseline_options=_image_weights,
        displayed_scores=(),
        trains_baseline=True,
    ),
)
"""In this order: `garment_gender` uses the bundle of `contour`."""


def select_families(names: Sequence[str], all_families: bool) -> list[DemoFamily]:
    """Return the optional families with these names, or all of them, each after those that it builds on.

    Raises:
        ConfigurationError: a name is not one of an optional family, or a family that it builds on was not selected.
    """
    known = [family.name for family in OPTIONAL_FAMILIES]
    for name in names:
        if name not in known:
            raise ConfigurationError(f"--family {name!r} is not one of {', '.join(known)}")
    if "garment_gender" in names and "contour" not in names and not all_families:
        raise ConfigurationError("--family garment_gender reads contours: add --family contour")
    return [family for family in OPTIONAL_FAMILIES if all_families or family.name in names]
