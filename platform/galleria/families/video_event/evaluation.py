"""The scores of `video_event`."""

from collections.abc import Iterable, Mapping

from galleria.learn.evaluation import collect
from galleria.learn.family import Labels
from galleria.learn.metrics.classification import classification
from galleria.learn.metrics.multi_label import multi_label
from galleria.learn.metrics.score import Score
from galleria.learn.types import Batch, Outputs


def evaluate(pairs: Iterable[tuple[Batch, Outputs]], labels: Labels) -> Mapping[str, Score]:
    """Compute the scores of `multi_label`, or for single labels those of `classification`."""
    predictions = ((batch, {"probabilities": outputs["probabilities"]}) for batch, outputs in pairs)
    table = collect(predictions, ("label", "events"))
    if not table:
        return {}
    probabilities = table["probabilities"].double().numpy()
    if "label" in table:
        return classification(probabilities, table["label"].numpy())
    return multi_label(probabilities, table["events"].double().numpy(), labels["event"])
