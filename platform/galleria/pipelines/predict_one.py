"""Predicts for one query in this process, as the service does."""

from collections.abc import Mapping
from typing import Any

from galleria.errors import ConfigurationError
from galleria.learn.bundle import Bundle
from galleria.learn.examples import stack
from galleria.learn.task import Row


def predict_one(bundle: Bundle, query: Row) -> Mapping[str, Any]:
    """Return what the family presents for a query: {"image": bytes}, {"text": str} or {"video": bytes or path}.

    Raises:
        DataError: the query cannot be used.
        ConfigurationError: the bundle does not read such queries.
    """
    example = bundle.family.example(query, bundle.context, None)
    if not example:
        raise ConfigurationError(f"the bundle at {bundle.path} does not read {', '.join(query)}: ask with a picture")
    outputs = bundle.task().predict(stack([example]))
    return bundle.family.present({name: value[0].numpy() for name, value in outputs.items()}, bundle.context.labels)
