"""Aesthetics and emotion classes of a picture, from two networks that exchange their features (CN109978074A)."""

from galleria.families.aesthetic_emotion.config import AestheticEmotionConfig
from galleria.families.aesthetic_emotion.data import SCHEMA, context, example, present
from galleria.learn.family import Family, deferred

__all__ = ["FAMILY"]

FAMILY = Family(
    name="aesthetic_emotion",
    config=AestheticEmotionConfig,
    schema=SCHEMA,
    context=context,
    build=deferred("galleria.families.aesthetic_emotion.task", "AestheticEmotion"),
    example=example,
    evaluate=deferred("galleria.families.aesthetic_emotion.evaluation", "evaluate"),
    present=present,
)
