"""Training runs of `category_tree`: each recipe is a function that returns one."""

from galleria.families.category_tree.config import CategoryTreeConfig
from galleria.learn.encoders.config import ImageEncoderConfig, partly_frozen_lite0
from galleria.learn.recipe import Optimization, Recipe, Sampling, Stopping
from galleria.learn.training.augmentation import Augmentation

__all__ = ["debug", "demo", "frozen", "paper"]


def debug() -> Recipe[CategoryTreeConfig]:
    """Train in seconds on one core, from scratch: a small ResNet at 32 px, a narrow pyramid, a product level."""
    return Recipe(
        family="category_tree",
        model=CategoryTreeConfig(
            image=ImageEncoderConfig(architecture="test_resnet"), size=32, product_level=True, channels=32
        ),
        optimization=Optimization(learning_rate=3e-3, warmup=0.1),
        stopping=Stopping(epochs=3, metric="R@1"),
        sampling=Sampling(batch_size=16, group="product_id", group_size=2),
    )


def demo(image_weights: str) -> Recipe[CategoryTreeConfig]:
    """Train in minutes on two cores: EfficientNet-Lite0 at 112 px, pyramid and heads from a discriminant analysis.

    Args:
        image_weights: file of EfficientNet-Lite0 weights under timm's names.
    """
    return Recipe(
        family="category_tree",
        model=CategoryTreeConfig(
            image=partly_frozen_lite0(image_weights, blocks=2),
            size=112,
            augmentation=Augmentation(
                rotation=15,
                shift=0.08,
                smallest=0.75,
                largest=1.15,
                shear=5,
                brightness=0.3,
                contrast=0.4,
                saturation=0.4,
                hue=0.05,
                grey=0.15,
                blur=0.2,
            ),
            product_level=True,
            channels=128,
            warm_start=True,
        ),
        optimization=Optimization(learning_rate=1e-3, warmup=0.1, clip_norm=10.0),
        stopping=Stopping(epochs=2, metric="R@1"),
        sampling=Sampling(batch_size=96, group="product_id", group_size=3),
    )


def frozen(image_weights: str) -> Recipe[CategoryTreeConfig]:
    """Define the baseline of `demo`: pooled features of the backbone, by `pipelines.train.untrained`.

    Args:
        image_weights: file of EfficientNet-Lite0 weights under timm's names.
    """
    image = ImageEncoderConfig(architecture="tf_efficientnet_lite0", weights=image_weights)
    return Recipe(
        family="category_tree",
        model=CategoryTreeConfig(image=image, size=112, head="none"),
        optimization=Optimization(),
        stopping=Stopping(epochs=1, metric="R@1"),
        sampling=Sampling(batch_size=96),
    )


def paper(image: str = "resnet50", image_weights: str = "timm") -> Recipe[CategoryTreeConfig]:
    """Train at the patent's scale, at 224 px with a pyramid of 256 channels: hours on GPUs.

    Args:
        image: a backbone of timm with a stage for each level, such as resnet50.
        image_weights: "none", "timm" to download them, or a local file.
    """
    return Recipe(
        family="category_tree",
        model=CategoryTreeConfig(
            image=ImageEncoderConfig(architecture=image, weights=image_weights),
            size=224,
            augmentation=Augmentation(
                smallest=0.8, largest=1.3, shift=0.1, flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2
            ),
            product_level=True,
        ),
        optimization=Optimization(
            learning_rate=1e-4, rates={"backbone": 0.5, "pyramid": 1.0, "heads": 2.0}, precision="bfloat16"
        ),
        stopping=Stopping(epochs=50, metric="R@1"),
        sampling=Sampling(batch_size=128, group="product_id", group_size=4, threads=8),
    )
