"""Aesthetics and emotion classes of a picture, from two networks that exchange their features (CN109978074A)."""

from galleria.families.aesthetic_emotion.data import SCHEMA, context, evaluate, example, present
from galleria.families.aesthetic_emotion.task import AestheticEmotion, AestheticEmotionConfig
from galleria.learn.family import Family

__all__ = ["FAMILY"]

FAMILY = Family(
    name="aesthetic_emotion",
    config=AestheticEmotionConfig,
    schema=SCHEMA,
    context=context,
    build=AestheticEmotion,
    example=example,
    evaluate=evaluate,
    present=present,
)
