"""The target gender of the garment in a picture, never of a person (CN113298092B, stage 2)."""

from galleria.families.garment_gender.data import SCHEMA, context, evaluate, example, present
from galleria.families.garment_gender.task import GarmentGender, GarmentGenderConfig
from galleria.learn.family import Family

__all__ = ["FAMILY"]

FAMILY = Family(
    name="garment_gender",
    config=GarmentGenderConfig,
    schema=SCHEMA,
    context=context,
    build=GarmentGender,
    example=example,
    evaluate=evaluate,
    present=present,
)
