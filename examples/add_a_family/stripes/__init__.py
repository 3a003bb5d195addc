"""A small family: tells horizontal stripes from vertical ones."""

from galleria.families.stripes.data import SCHEMA, context, evaluate, example, present
from galleria.families.stripes.task import Stripes, StripesConfig

from galleria.learn.family import Family

__all__ = ["FAMILY"]

FAMILY = Family(
    name="stripes",
    config=StripesConfig,
    schema=SCHEMA,
    context=context,
    build=Stripes,
    example=example,
    evaluate=evaluate,
    present=present,
)
