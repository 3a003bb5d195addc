"""Messages between the gateway and its models. Imports neither torch nor Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from galleria import errors
from galleria.errors import DataError
from galleria.serving.config import Kind
from galleria.serving.schemas.problems import invalid_field


@dataclass(frozen=True, slots=True)
class Description:
    """A running model.

    Attributes:
        kind: of requests that it is for.
        family: family of its bundle.
        hash: hash of its bundle.
        inputs: columns that it reads, of "image", "text" and "video".
        metrics: scores that the bundle was saved with.
        dimension: length of its vectors, of a model that searches.
        slices: shorter lengths to which its vectors may be cut.
        runtime: that pictures run in.
        levels: number of `level_weights` that a search may give; 0 where it may give none.
    """

    kind: Kind
    family: str
    hash: str
    inputs: tuple[str, ...]
    metrics: Mapping[str, float]
    dimension: int | None = None
    levels: int = 0
    slices: tuple[int, ...] = ()
    runtime: Literal["torch", "onnx"] = "torch"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The outcome of one row: what the family presents of it, or the name and message of an error.

    Errors travel as values, because a batch succeeds and fails row by row.

    Attributes:
        bundle_hash: of the bundle that ran.
        answer: plain values; of a model that searches, "embedding" is a float32 vector `[D]`.
        error: class of the error.
        message: what was wrong and what to do about it.
        field: the one field of the row that the model has no use for.
        batch_size: number of rows in its batch.
    """

    bundle_hash: str
    answer: Mapping[str, Any] | None = None
    error: str = ""
    message: str = ""
    field: str = ""
    batch_size: int = 1

    def unwrap(self) -> Mapping[str, Any]:
        """Return the answer.

        Raises:
            DataError: the row cannot be used; of the subclass that the model raised.
            ProblemError: 422, the model has no use for one of its fields.
            RuntimeError: the model failed.
        """
        if self.answer is not None:
            return self.answer
        if self.field:
            raise invalid_field(self.field, self.message)
        kind = getattr(errors, self.error, None)
        if isinstance(kind, type) and issubclass(kind, DataError):
            raise kind(self.message)
        raise RuntimeError(f"the model failed: {self.error}: {self.message}")
