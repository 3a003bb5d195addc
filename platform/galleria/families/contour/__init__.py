"""Contours of what a picture shows, and the multi-level features that find them (CN113298092B, stage 1)."""

from galleria.families.contour.config import ContourConfig
from galleria.families.contour.data import SCHEMA, context, example, present
from galleria.learn.family import Family, deferred

__all__ = ["FAMILY"]

FAMILY = Family(
    name="contour",
    config=ContourConfig,
    schema=SCHEMA,
    context=context,
    build=deferred("galleria.families.contour.task", "Contour"),
    example=example,
    evaluate=deferred("galleria.families.contour.evaluation", "evaluate"),
    present=present,
)
