"""Training runs of `aesthetic_emotion`: each recipe is a function that returns one."""

from galleria.families.aesthetic_emotion.config import AestheticEmotionConfig, Mode
from galleria.learn.encoders.config import ImageEncoderConfig, partly_frozen_lite0
from galleria.learn.recipe import Optimization, Recipe, Sampling, Stopping
from galleria.learn.training.augmentation import Augmentation

__all__ = ["debug", "demo", "frozen", "paper"]

METRIC = "balanced_accuracy"


def debug() -> Recipe[AestheticEmotionConfig]:
    """Train in seconds on one core, from scratch: two small ResNets at 32 px."""
    return Recipe(
        family="aesthetic_emotion",
        model=AestheticEmotionConfig(image=ImageEncoderConfig(architecture="test_resnet"), size=32),
        optimization=Optimization(learning_rate=3e-3, warmup=0.1),
        stopping=Stopping(epochs=3, metric=METRIC),
        sampling=Sampling(batch_size=16),
    )


def demo(image_weights: str, mode: Mode = "nddr") -> Recipe[AestheticEmotionConfig]:
    """Train in minutes on two cores: EfficientNet-Lite0 at 96 px, whose last two blocks are trained in each branch.

    Pictures are mirrored only: any other change would lower their technical quality.

    Args:
        image_weights: file of EfficientNet-Lite0 weights under timm's names.
        mode: how the branches are joined; "none" and "shared" are what the joined ones are compared with.
    """
    return Recipe(
        family="aesthetic_emotion",
        model=AestheticEmotionConfig(
            image=partly_frozen_lite0(image_weights, blocks=5),
            size=96,
            augmentation=Augmentation(flip=0.5),
            mode=mode,
            stages=2,
            norm=False,
            trunk=True,
        ),
        optimization=Optimization(learning_rate=1e-3, rates={"backbone": 0.5, "cross": 1.0, "heads": 2.0}, warmup=0.1),
        stopping=Stopping(epochs=8, metric=METRIC),
        sampling=Sampling(batch_size=48),
    )


def frozen(image_weights: str) -> Recipe[AestheticEmotionConfig]:
    """Define the baseline of `demo`, trained alike: linear heads on the backbone's own features.

    Two frozen branches would give the same features twice, so it has one.
    """
    recipe = demo(image_weights, "shared")
    return recipe.model_copy(
        update={
            "optimization": Optimization(learning_rate=3e-3, rates={"backbone": 0.0}, warmup=0.1),
            "stopping": Stopping(epochs=8, metric=METRIC),
        }
    )


def paper(image: str = "resnet50", image_weights: str = "timm", mode: Mode = "nddr") -> Recipe[AestheticEmotionConfig]:
    """Train at the patent's scale, at 224 px: hours on GPUs.

    Args:
        image: picture encoder of both branches, a ResNet or EfficientNet of timm.
        image_weights: "none", "timm" to download them, or a local file.
        mode: how the branches are joined.
    """
    return Recipe(
        family="aesthetic_emotion",
        model=AestheticEmotionConfig(
            image=ImageEncoderConfig(architecture=image, weights=image_weights),
            size=224,
            augmentation=Augmentation(flip=0.5),
            mode=mode,
        ),
        optimization=Optimization(
            learning_rate=1e-4,
            rates={"backbone": 1.0, "cross": 10.0, "heads": 10.0},
            precision="bfloat16",
        ),
        stopping=Stopping(epochs=50, metric=METRIC),
        sampling=Sampling(batch_size=64, threads=8),
    )
