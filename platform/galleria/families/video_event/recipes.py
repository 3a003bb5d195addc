"""Training runs of `video_event`: each recipe is a function that returns one."""

from typing import Literal

from galleria.families.video_event.config import VideoEventConfig
from galleria.learn.encoders.config import ImageEncoderConfig, partly_frozen_lite0
from galleria.learn.recipe import Optimization, Recipe, Sampling, Stopping
from galleria.learn.training.augmentation import Augmentation

__all__ = ["debug", "demo", "frozen", "paper"]


def debug() -> Recipe[VideoEventConfig]:
    """Train in seconds on one core, from scratch: a small ResNet on 8 frames of 32 px."""
    return Recipe(
        family="video_event",
        model=VideoEventConfig(
            image=ImageEncoderConfig(architecture="test_resnet"), size=32, frames=8, attention=16, hidden=16
        ),
        optimization=Optimization(learning_rate=1e-2, warmup=0.1),
        stopping=Stopping(epochs=3, metric="mAP"),
        sampling=Sampling(batch_size=8),
    )


def demo(
    image_weights: str, pooling: Literal["attention", "mean", "random"] = "attention", seed: int = 0
) -> Recipe[VideoEventConfig]:
    """Train in minutes on two cores: EfficientNet-Lite0 on 16 frames of 80 px, its last stage trained.

    Args:
        image_weights: file of EfficientNet-Lite0 weights under timm's names.
        pooling: "mean" and "random" are for comparison at an equal number of frames.
        seed: of the weights and the order of the videos.
    """
    return Recipe(
        family="video_event",
        model=VideoEventConfig(
            image=partly_frozen_lite0(image_weights, blocks=6),
            size=80,
            pooling=pooling,
            smallest_part=0.9,
            augmentation=Augmentation(flip=0.5, brightness=0.2, contrast=0.2, saturation=0.3),
        ),
        optimization=Optimization(
            learning_rate=2e-3, rates={"backbone": 0.1, "attention": 1.0, "classifier": 1.0}, warmup=0.1
        ),
        stopping=Stopping(epochs=4, metric="mAP"),
        sampling=Sampling(batch_size=8),
        seed=seed,
    )


def frozen(image_weights: str) -> Recipe[VideoEventConfig]:
    """Define the baseline of `demo`, trained like it: the same backbone frozen, mean pooling, a linear classifier."""
    return Recipe(
        family="video_event",
        model=VideoEventConfig(image=partly_frozen_lite0(image_weights, blocks=6), size=80, pooling="mean", hidden=0),
        optimization=Optimization(learning_rate=1e-2, rates={"backbone": 0.0}, warmup=0.1),
        stopping=Stopping(epochs=4, metric="mAP"),
        sampling=Sampling(batch_size=8),
    )


def paper(
    image: Literal["resnet50", "seresnet50", "efficientnet_b3"] = "resnet50",
    image_weights: str = "timm",
    labels: Literal["multi", "single"] = "multi",
) -> Recipe[VideoEventConfig]:
    """Train at the patent's scale, 16 frames at 224 px: hours on GPUs.

    Args:
        image: frame encoder.
        image_weights: "none", "timm" to download them, or a local file.
        labels: whether a video has any number of events, or exactly one.
    """
    return Recipe(
        family="video_event",
        model=VideoEventConfig(
            image=ImageEncoderConfig(architecture=image, weights=image_weights),
            labels=labels,
            hidden=512,
            dropout=0.5,
            smallest_part=0.8,
            augmentation=Augmentation(
                smallest=0.9, largest=1.3, shift=0.1, flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2
            ),
        ),
        optimization=Optimization(
            learning_rate=1e-3, rates={"backbone": 0.1, "attention": 1.0, "classifier": 1.0}, precision="bfloat16"
        ),
        stopping=Stopping(epochs=50, metric="mAP" if labels == "multi" else "accuracy"),
        sampling=Sampling(batch_size=32, buffer=5_000, threads=8),
    )
