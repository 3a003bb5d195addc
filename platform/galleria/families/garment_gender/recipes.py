"""Training runs of `garment_gender`: each recipe is a function that returns one."""

from typing import Literal

from galleria.families.garment_gender.config import ColourChange, GarmentGenderConfig
from galleria.families.garment_gender.contours import ContourSource
from galleria.learn.encoders.config import ImageEncoderConfig, partly_frozen_lite0
from galleria.learn.recipe import Optimization, Recipe, Sampling, Stopping
from galleria.learn.training.augmentation import Augmentation

__all__ = ["debug", "demo", "frozen", "paper"]

ContourUse = Literal["none", "frozen", "random", "end_to_end"]
SIZE = 96


def debug() -> Recipe[GarmentGenderConfig]:
    """Train in seconds on one core, from scratch, at 32 px, with a contour network of random weights."""
    return Recipe(
        family="garment_gender",
        model=GarmentGenderConfig(
            image=ImageEncoderConfig(architecture="test_resnet"),
            contour="random",
            source=ContourSource(network={"size": 32}),
            size=32,
            colour=ColourChange(swap_share=0.15, shift=0.1),
        ),
        optimization=Optimization(learning_rate=3e-3, warmup=0.1),
        stopping=Stopping(epochs=3, metric="accuracy"),
        sampling=Sampling(batch_size=16),
    )


def demo(image_weights: str, contour_bundle: str, contour: ContourUse = "frozen") -> Recipe[GarmentGenderConfig]:
    """Train in minutes on two cores: EfficientNet-Lite0 at 96 px with a contour network.

    Args:
        image_weights: file of EfficientNet-Lite0 weights under timm's names.
        contour_bundle: folder of a bundle that a recipe of `contour` trained; "random" reads only its options.
        contour: what becomes of its features; for ablations.
    """
    return Recipe(
        family="garment_gender",
        model=GarmentGenderConfig(
            image=partly_frozen_lite0(image_weights, blocks=2),
            contour=contour,
            source=ContourSource(weights=contour_bundle),
            size=SIZE,
            colour=ColourChange(swap_share=0.15, shift=0.1),
            augmentation=Augmentation(
                rotation=15, shift=0.08, smallest=0.75, largest=1.15, flip=0.5, brightness=0.2, contrast=0.2
            ),
        ),
        optimization=Optimization(learning_rate=1e-3, rates={"backbone": 0.3}, warmup=0.1),
        stopping=Stopping(epochs=4, metric="accuracy"),
        sampling=Sampling(batch_size=32),
    )


def frozen(image_weights: str) -> Recipe[GarmentGenderConfig]:
    """Define the baseline of `demo`: a linear layer on the features of the frozen backbone, without contours.

    Train it like `demo`: well under a minute on two cores, because only that layer learns.

    Args:
        image_weights: file of EfficientNet-Lite0 weights under timm's names.
    """
    return Recipe(
        family="garment_gender",
        model=GarmentGenderConfig(
            image=ImageEncoderConfig(architecture="tf_efficientnet_lite0", weights=image_weights, statistics="frozen"),
            contour="none",
            head="linear",
            size=SIZE,
        ),
        optimization=Optimization(learning_rate=1e-2, rates={"backbone": 0.0}),
        stopping=Stopping(epochs=4, metric="accuracy"),
        sampling=Sampling(batch_size=32),
    )


def paper(
    contour_bundle: str,
    image: Literal["resnet50", "seresnet50"] = "resnet50",
    image_weights: str = "timm",
    contour: ContourUse = "frozen",
) -> Recipe[GarmentGenderConfig]:
    """Train at the patent's scale, at 224 px with unisex garments: hours on GPUs.

    Args:
        contour_bundle: folder of a bundle that `contour`'s recipe "paper" trained.
        image: the first gender network.
        image_weights: "none", "timm" to download them, or a local file.
        contour: what becomes of the contour features.
    """
    return Recipe(
        family="garment_gender",
        model=GarmentGenderConfig(
            image=ImageEncoderConfig(architecture=image, weights=image_weights),
            contour=contour,
            source=ContourSource(weights=contour_bundle),
            answer="several",
            size=224,
            colour=ColourChange(swap_share=0.15, shift=0.1),
            augmentation=Augmentation(
                smallest=0.7, largest=1.3, shift=0.1, flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2
            ),
        ),
        optimization=Optimization(learning_rate=3e-4, rates={"backbone": 0.3}, precision="bfloat16"),
        stopping=Stopping(epochs=50, metric="mAP", patience=8),
        sampling=Sampling(batch_size=128, threads=8),
    )
