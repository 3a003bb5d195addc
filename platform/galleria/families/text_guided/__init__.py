"""Product retrieval in which the text of a product guides the training of its picture encoder (CN113159095A)."""

from galleria.families.text_guided.data import SCHEMA, context, evaluate, example, present
from galleria.families.text_guided.task import TextGuided, TextGuidedConfig
from galleria.learn.family import Family

__all__ = ["FAMILY"]

FAMILY = Family(
    name="text_guided",
    config=TextGuidedConfig,
    schema=SCHEMA,
    context=context,
    build=TextGuided,
    example=example,
    evaluate=evaluate,
    present=present,
    ranks=True,
)
