"""The target gender of the garment in a picture, never of a person (CN113298092B, stage 2)."""

from galleria.families.garment_gender.config import GarmentGenderConfig
from galleria.families.garment_gender.data import SCHEMA, context, example, present
from galleria.learn.family import Family, deferred

__all__ = ["FAMILY"]

FAMILY = Family(
    name="garment_gender",
    config=GarmentGenderConfig,
    schema=SCHEMA,
    context=context,
    build=deferred("galleria.families.garment_gender.task", "GarmentGender"),
    example=example,
    evaluate=deferred("galleria.families.garment_gender.evaluation", "evaluate"),
    present=present,
)
