"""Product retrieval with one vector for every level of a category tree (technology no. 25948710)."""

from galleria.families.category_tree.config import CategoryTreeConfig
from galleria.families.category_tree.data import SCHEMA, context, example, present
from galleria.learn.family import Family, deferred

__all__ = ["FAMILY"]

FAMILY = Family(
    name="category_tree",
    config=CategoryTreeConfig,
    schema=SCHEMA,
    context=context,
    build=deferred("galleria.families.category_tree.task", "CategoryTree"),
    example=example,
    evaluate=deferred("galleria.families.category_tree.evaluation", "evaluate"),
    present=present,
    ranks=True,
)
