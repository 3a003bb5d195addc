"""Contours of what a picture shows, and the multi-level features that find them (CN113298092B, stage 1)."""

from galleria.families.contour.data import SCHEMA, context, evaluate, example, present
from galleria.families.contour.task import Contour, ContourConfig
from galleria.learn.family import Family

__all__ = ["FAMILY"]

FAMILY = Family(
    name="contour",
    config=ContourConfig,
    schema=SCHEMA,
    context=context,
    build=Contour,
    example=example,
    evaluate=evaluate,
    present=present,
)
