"""Training runs of `text_guided`: each recipe is a function that returns one."""

from galleria.families.text_guided.task import LossWeights, TextGuidedConfig
from galleria.learn.image_encoder import ImageEncoderConfig
from galleria.learn.recipe import Optimization, Recipe, Sampling, Stopping
from galleria.learn.text_encoder import TextEncoderConfig

__all__ = ["debug"]


def debug() -> Recipe[TextGuidedConfig]:
    """Seconds on one core, from scratch: a ResNet10 at 32 px and a two-layer BERT."""
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
