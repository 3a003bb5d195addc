"""Trees of categories. Imports no torch: a gateway starts without it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tree:
    """A tree whose leaves all lie on its last level.

    Attributes:
        names: for each level, root level first, the full names of its classes ("food/fruit"), sorted.
        parents: for each level, the index of every class's parent in the level above; 0 on the first level.
    """

    names: tuple[tuple[str, ...], ...]
    parents: tuple[tuple[int, ...], ...]


def tree_of(paths: Iterable[Sequence[str]], depth: int) -> Tree:
    """Build the tree of category paths of up to `depth` levels; shorter ones are padded by `padded`."""
    branches = sorted({padded(path, depth) for path in paths}, key=full_names)
    names: list[tuple[str, ...]] = []
    parents: list[tuple[int, ...]] = []
    for level in range(depth):
        above = {full_names(branch)[level]: full_names(branch)[level - 1] if level else "" for branch in branches}
        names.append(tuple(sorted(above)))
        index = {name: i for i, name in enumerate(names[level - 1])} if level else {"": 0}
        parents.append(tuple(index[above[name]] for name in names[level]))
    return Tree(tuple(names), tuple(parents))


def padded(path: Sequence[str], depth: int) -> tuple[str, ...]:
    """Return a path as long as the tree is deep: a branch that ends early repeats its last category."""
    assert 0 < len(path) <= depth, "a path must have a level and may not leave the tree"
    return (*path, *[path[-1]] * (depth - len(path)))


def full_names(path: Sequence[str]) -> tuple[str, ...]:
    r"""Return names that keep categories of the same word apart: ("food", "fruit") → ("food", "food/fruit").

    A slash inside a category's own name is written as "\/".
    """
    parts = [part.replace("\\", "\\\\").replace("/", "\\/") for part in path]
    return tuple("/".join(parts[: end + 1]) for end in range(len(parts)))
