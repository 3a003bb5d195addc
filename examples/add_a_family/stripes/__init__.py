"""A small family: tells horizontal stripes from vertical ones."""

from galleria.families.stripes.config import StripesConfig
from galleria.families.stripes.data import SCHEMA, context, example, present

from galleria.learn.family import Family, deferred

__all__ = ["FAMILY"]

FAMILY = Family(
    name="stripes",
    config=StripesConfig,
    schema=SCHEMA,
    context=context,
    build=deferred("galleria.families.stripes.task", "Stripes"),
    example=example,
    evaluate=deferred("galleria.families.stripes.evaluation", "evaluate"),
    present=present,
)
