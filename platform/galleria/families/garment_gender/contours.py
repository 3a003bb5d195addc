"""The contour network inside the gender network, loaded from its own bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, JsonValue

from galleria.errors import ConfigurationError
from galleria.learn.bundle import Bundle
from galleria.learn.family import load_family
from galleria.learn.recipe import Frozen

if TYPE_CHECKING:
    from galleria.learn.task import Task

FAMILY = "contour"


class ContourSource(Frozen):
    """Which contour network. A recipe names a bundle; the rest is read from it."""

    weights: str = Field("none", description="folder of a contour bundle; 'none' for weights of another origin")
    hash: str = Field("", description="of that bundle, also after export")
    network: Mapping[str, JsonValue] = Field(default_factory=dict, description="options of the contour family")


def completed(source: ContourSource) -> ContourSource:
    """Return the source with the hash and options of its bundle.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
        ConfigurationError: it is a bundle of another family.
    """
    if source.weights == "none":
        return source
    bundle = Bundle.open(Path(source.weights).expanduser().resolve())
    if bundle.family.name != FAMILY:
        raise ConfigurationError(
            f"{source.weights} is a bundle of {bundle.family.name!r}: name one that the family {FAMILY!r} trained"
        )
    network = bundle.context.config.model_dump(mode="json")
    return ContourSource(weights=str(bundle.path), hash=bundle.hash, network=network)


def contour_network(source: ContourSource) -> "Task":
    """Build the network without its single-channel layer, with its bundle's weights or, for 'none', with random ones.

    Raises:
        BundleError: there is no such bundle any more, or it is damaged.
        ConfigurationError: it is not the bundle that the source was completed with.
    """
    if source.weights != "none":
        bundle = Bundle.open(source.weights)
        if bundle.hash != source.hash:
            raise ConfigurationError(
                f"the contour bundle {source.weights} is {bundle.hash[:12]}, but {source.hash[:12] or 'none'} was "
                "chosen: train again, or restore the first one"
            )
        return bundle.task()
    family = load_family(FAMILY)
    options: dict[str, Any] = {**source.network, "head": False}
    return family.build(family.config.model_validate(options))
