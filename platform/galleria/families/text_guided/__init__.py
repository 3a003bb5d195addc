"""Product retrieval in which the text of a product guides the training of its picture encoder (CN113159095A)."""

from galleria.families.text_guided.config import TextGuidedConfig
from galleria.families.text_guided.data import SCHEMA, context, example, present
from galleria.learn.family import Family, deferred

__all__ = ["FAMILY"]

FAMILY = Family(
    name="text_guided",
    config=TextGuidedConfig,
    schema=SCHEMA,
    context=context,
    build=deferred("galleria.families.text_guided.task", "TextGuided"),
    example=example,
    evaluate=deferred("galleria.families.text_guided.evaluation", "evaluate"),
    present=present,
    ranks=True,
)
