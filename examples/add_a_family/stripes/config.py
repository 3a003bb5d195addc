"""The options of the network."""

from pydantic import Field

from galleria.learn.recipe import Frozen


class StripesConfig(Frozen):
    """Options of the network; `classes` is filled in from the training rows."""

    size: int = Field(32, ge=8)
    classes: int = 0
