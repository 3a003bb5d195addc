"""Product retrieval with one vector for every level of a category tree (technology no. 25948710)."""

from galleria.families.category_tree.data import SCHEMA, context, evaluate, example, present
from galleria.families.category_tree.task import CategoryTree, CategoryTreeConfig
from galleria.learn.family import Family

__all__ = ["FAMILY"]

FAMILY = Family(
    name="category_tree",
    config=CategoryTreeConfig,
    schema=SCHEMA,
    context=context,
    build=CategoryTree,
    example=example,
    evaluate=evaluate,
    present=present,
    ranks=True,
)
