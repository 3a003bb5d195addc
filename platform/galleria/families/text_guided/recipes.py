"""Training runs of `text_guided`: each recipe is a function that returns one."""

from typing import Literal

from galleria.families.text_guided.config import LossWeights, TextGuidedConfig
from galleria.learn.encoders.config import (
    ImageEncoderConfig,
    TextEncoderConfig,
    partly_frozen_lite0,
    pretrained_text_encoder,
)
from galleria.learn.recipe import Optimization, Recipe, Sampling, Stopping
from galleria.learn.training.augmentation import Augmentation

__all__ = ["debug", "demo", "frozen", "paper"]


def debug() -> Recipe[TextGuidedConfig]:
    """Train in seconds on one core, from scratch: a small ResNet at 32 px and a two-layer BERT."""
    return Recipe(
        family="text_guided",
        model=TextGuidedConfig(
            image=ImageEncoderConfig(architecture="test_resnet"),
            text=TextEncoderConfig(
                architecture={
                    "model_type": "bert",
                    "vocab_size": 400,
                    "hidden_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "intermediate_size": 64,
                    "max_position_embeddings": 32,
                },
                tokens=16,
            ),
            size=32,
            dimension=32,
            slices=(8, 16),
            losses=LossWeights(contrastive=0.5),
        ),
        optimization=Optimization(learning_rate=3e-3, warmup=0.1),
        stopping=Stopping(epochs=3, metric="R@1"),
        sampling=Sampling(batch_size=16, group="product_id", group_size=2),
    )


def demo(image_weights: str, text_model: str) -> Recipe[TextGuidedConfig]:
    """Train in minutes on two cores: EfficientNet-Lite0 at 112 px, heads from a discriminant analysis, MiniLM frozen.

    Args:
        image_weights: file of EfficientNet-Lite0 weights under timm's names.
        text_model: folder of a transformers text encoder.
    """
    return Recipe(
        family="text_guided",
        model=TextGuidedConfig(
            image=partly_frozen_lite0(image_weights, blocks=2),
            text=pretrained_text_encoder(text_model, tokens=24),
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
            losses=LossWeights(contrastive=1.0, alignment=1.0),
            warm_start=True,
        ),
        optimization=Optimization(
            learning_rate=1e-3, rates={"backbone": 1.0, "heads": 1.0, "text": 0.0}, warmup=0.1, clip_norm=10.0
        ),
        stopping=Stopping(epochs=4, metric="R@1"),
        sampling=Sampling(batch_size=96, group="product_id", group_size=3),
    )


def frozen(image_weights: str) -> Recipe[TextGuidedConfig]:
    """Define the baseline of `demo`: the backbone's own features, of the same weights. Not for training."""
    image = ImageEncoderConfig(architecture="tf_efficientnet_lite0", weights=image_weights)
    return Recipe(
        family="text_guided",
        model=TextGuidedConfig(image=image, size=112, head="none", dimension=1280, slices=()),
        optimization=Optimization(),
        stopping=Stopping(epochs=1, metric="R@1"),
        sampling=Sampling(batch_size=96),
    )


def paper(
    image: Literal["resnet50", "seresnet50", "efficientnet_b3"] = "resnet50",
    image_weights: str = "timm",
    text: Literal["bert", "gpt2"] = "bert",
    text_weights: str = "",
) -> Recipe[TextGuidedConfig]:
    """Train at the patent's scale, at 224 px: hours on GPUs.

    Args:
        image: picture encoder.
        image_weights: "none", "timm" to download them, or a local file.
        text: text encoder, in the size that its authors call base.
        text_weights: "none", a hub name or a local transformers folder; by default the encoder's usual one.
    """
    return Recipe(
        family="text_guided",
        model=TextGuidedConfig(
            image=ImageEncoderConfig(architecture=image, weights=image_weights),
            text=TextEncoderConfig(
                architecture={"model_type": text},
                weights=text_weights or {"bert": "bert-base-uncased", "gpt2": "gpt2"}[text],
                pooling="mean" if text == "bert" else "last",
                tokens=64,
            ),
            size=224,
            augmentation=Augmentation(
                smallest=0.8, largest=1.3, shift=0.1, flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2
            ),
        ),
        optimization=Optimization(
            learning_rate=1e-4, rates={"backbone": 0.5, "heads": 1.0, "text": 0.2}, precision="bfloat16"
        ),
        stopping=Stopping(epochs=50, metric="R@1"),
        sampling=Sampling(batch_size=128, group="product_id", group_size=4, threads=8),
    )
