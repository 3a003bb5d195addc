"""The layouts of known data sets: which one a folder has, and its rows."""

from collections.abc import Callable, Iterator
from types import MappingProxyType

from galleria.errors import ConfigurationError
from galleria.learn.task import Row
from galleria.pipelines.readers import ava, bsds500, cifar100, cub, deepfashion2, in_shop, sop
from galleria.pipelines.readers.tree import Tree

READERS: MappingProxyType[str, Callable[[Tree], Iterator[Row]]] = MappingProxyType(
    {
        "sop": sop.read_sop,
        "in_shop": in_shop.read_in_shop,
        "cub": cub.read_cub,
        "deepfashion2": deepfashion2.read_deepfashion2,
        "cifar100": cifar100.read_cifar100,
        "ava": ava.read_ava,
        "bsds500": bsds500.read_bsds500,
    }
)
"""Name of a data set → the reader of its folder."""
MARKS = MappingProxyType(
    {
        "sop": (sop.MARKS,),
        "in_shop": tuple((name,) for name in in_shop.PARTITIONS),
        "cub": (cub.MARKS,),
        "deepfashion2": (("train/annos", "train/image"), ("validation/annos", "validation/image")),
        "cifar100": (cifar100.MARKS,),
        "ava": (ava.MARKS,),
        "bsds500": (bsds500.MARKS,),
    }
)
"""Name of a data set → what its folder has: all of one of these."""
ROOTS = ("", "data", "BSDS500/data", "cifar-100-binary", "CUB_200_2011", "Stanford_Online_Products")
"""Where data sets are in the folders to which they are unpacked."""


def recognise_dataset(tree: Tree, name: str | None) -> tuple[str, Tree] | None:
    """Return which data set a folder holds and where in it, or None.

    Args:
        tree: the folder.
        name: the data set that it must be, or None.

    Raises:
        ConfigurationError: it is not that one.
    """
    for candidate in READERS if name is None else (name,):
        for root in ROOTS:
            if root and root.partition("/")[0] not in tree.names:
                continue
            at = tree.sub(root) if root else tree
            if any(all(_has(at, mark) for mark in marks) for marks in MARKS[candidate]):
                return candidate, at
    if name is not None:
        files = " or ".join(", ".join(marks) for marks in MARKS[name])
        raise ConfigurationError(f"{tree.root} does not look like {name}: it must hold {files}")
    return None


def _has(tree: Tree, mark: str) -> bool:
    return mark.partition("/")[0] in tree.names and ("/" not in mark or tree.has(mark))
