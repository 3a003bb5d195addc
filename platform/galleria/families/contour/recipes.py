"""Training runs of `contour`: each recipe is a function that returns one."""

from typing import Literal

from galleria.families.contour.config import ContourConfig
from galleria.learn.recipe import Optimization, Recipe, Sampling, Stopping
from galleria.learn.training.augmentation import Augmentation

__all__ = ["debug", "demo", "frozen", "paper"]


def debug() -> Recipe[ContourConfig]:
    """Train in seconds on one core, from scratch, at 32 px."""
    return Recipe(
        family="contour",
        model=ContourConfig(size=32),
        optimization=Optimization(learning_rate=1e-2, warmup=0.1),
        stopping=Stopping(epochs=3, metric="ODS"),
        sampling=Sampling(batch_size=8),
    )


def demo() -> Recipe[ContourConfig]:
    """Train in minutes on two cores, from scratch: drawings at 80 px, contours at 40."""
    return Recipe(
        family="contour",
        model=ContourConfig(
            size=80,
            augmentation=Augmentation(
                rotation=10, shift=0.05, smallest=0.8, largest=1.2, flip=0.5, brightness=0.2, contrast=0.2, hue=0.1
            ),
        ),
        optimization=Optimization(learning_rate=5e-3, warmup=0.1),
        stopping=Stopping(epochs=6, metric="ODS"),
        sampling=Sampling(batch_size=32),
    )


def frozen() -> Recipe[ContourConfig]:
    """Define the baseline of `demo`: the same network before its first step. Not for training.

    There are no pretrained contours to freeze, so random features replace them: make the bundle with
    `pipelines.train.untrained` and compare "readout/ODS" of the two.
    """
    return demo()


def paper(unification: Literal["bilinear", "nearest", "deconvolution"] = "deconvolution") -> Recipe[ContourConfig]:
    """Train with the patent's options at 224 px: hours on a GPU with thousands of annotated photographs.

    Args:
        unification: how maps of different sizes are brought to one.
    """
    return Recipe(
        family="contour",
        model=ContourConfig(
            size=224,
            squeeze=True,
            unification=unification,
            augmentation=Augmentation(
                rotation=15,
                shift=0.1,
                smallest=0.7,
                largest=1.4,
                flip=0.5,
                brightness=0.3,
                contrast=0.3,
                saturation=0.3,
            ),
        ),
        optimization=Optimization(learning_rate=1e-3, average_decay=0.999, precision="bfloat16"),
        stopping=Stopping(epochs=100, metric="ODS", patience=15),
        sampling=Sampling(batch_size=32, threads=8),
    )
