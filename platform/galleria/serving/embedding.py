"""What passes between the gateway and its embedder. Knows neither torch nor Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galleria import errors
from galleria.errors import DataError


@dataclass(frozen=True, slots=True)
class Description:
    """A running embedder.

    Attributes:
        family: family of its bundle.
        hash: hash of its bundle.
        dimension: length of its vectors.
        inputs: what it embeds, of "image" and "text".
        metrics: scores that the bundle was saved with.
    """

    family: str
    hash: str
    dimension: int
    inputs: tuple[str, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The outcome of one query: a vector `[D]`, or the name and message of the error that it met.

    Errors travel as values, because a batch succeeds and fails query by query.
    """

    bundle_hash: str
    vector: NDArray[np.float32] | None = None
    error: str = ""
    message: str = ""

    def unwrap(self) -> NDArray[np.float32]:
        """The vector.

        Raises:
            DataError: the query cannot be used; of the class that the embedder met.
            RuntimeError: the embedder failed.
        """
        if self.vector is not None:
            return self.vector
        kind = getattr(errors, self.error, None)
        if isinstance(kind, type) and issubclass(kind, DataError):
            raise kind(self.message)
        raise RuntimeError(f"the embedder failed: {self.error}: {self.message}")


class Embeds(Protocol):
    """Embeds queries, here or elsewhere."""

    async def embed(self, row: Mapping[str, Any]) -> Embedded:
        """Embed {"image": bytes} or {"text": str}."""

    async def describe(self) -> Description:
        """What is running. Fails where the embedder does not answer."""
