import asyncio
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from galleria.serving.config import BundleLocation
from galleria.serving.inference.client import DeployedModel, ModelClient
from galleria.serving.inference.types import Description, Prediction
from galleria.serving.schemas.problems import ProblemError
from galleria.serving.schemas.responses import ModelVersion

LOCATION = BundleLocation("bundle", "h1")
DESCRIPTION = Description("classify", "fake", "h1", ("image",), {"no_match/score": 0.5, "no_match/kept": 0.9})


class Handle:
    """Returns or raises its outcomes, call by call; sleeps first for a number of seconds."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[object, ...]] = []
        self.predict = self.describe = SimpleNamespace(remote=self.remote)

    async def remote(self, *values: object) -> object:
        self.calls.append(values)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, float):
            await asyncio.sleep(outcome)
            return prediction(outcome)
        return outcome


def prediction(answer: object, bundle_hash: str = "h1", batch_size: int = 1) -> Prediction:
    return Prediction(bundle_hash, {"answer": answer}, batch_size=batch_size)


def client(*outcomes: object, timeout_s: float = 0.1, video_timeout_s: float = 9, count_batch=None) -> ModelClient:
    model = ModelVersion(family="fake", hash="h1")
    backend = DeployedModel(Handle(*outcomes))
    return ModelClient("gender", model, LOCATION, backend, timeout_s, video_timeout_s, count_batch)


def predict(*outcomes: object) -> object:
    return asyncio.run(client(*outcomes).predict({"text": "a"}))["answer"]


def test_query_lost_with_replica_is_retried():
    assert predict(ActorDiedError(), prediction("answer")) == "answer"


@pytest.mark.parametrize(
    ("outcomes", "message", "status"),
    [
        ((ActorDiedError(), ActorDiedError()), "not running", 503),
        ((DeploymentUnavailableError("Model"),), "not running", 503),
        ((BackPressureError(1, 1),), "too many", 429),
        ((5.0,), "longer than 0.1 s", 503),
    ],
)
def test_unavailable_model_says_retry_after(outcomes, message, status):
    with pytest.raises(ProblemError, match=message) as error:
        predict(*outcomes)
    assert error.value.status == status
    assert error.value.headers["Retry-After"] == "1"


def test_video_has_its_own_timeout():
    model = client(0.2, timeout_s=0.05, video_timeout_s=5)
    assert asyncio.run(model.predict({"video": b"film"})) == {"answer": 0.2}


def test_describe_calls_the_same_handle():
    assert asyncio.run(client(DESCRIPTION, timeout_s=1, video_timeout_s=1).describe()) == DESCRIPTION


def test_row_and_location_are_sent():
    handle = Handle(prediction("answer"))
    model = ModelClient("gender", ModelVersion(family="fake", hash="h1"), LOCATION, DeployedModel(handle), 1, 1)
    asyncio.run(model.predict({"text": "a"}))
    assert handle.calls == [({"text": "a"}, LOCATION)]


def test_batch_sizes_are_counted():
    sizes: list[int] = []
    model = client(prediction("answer", batch_size=5), count_batch=sizes.append)
    asyncio.run(model.predict({"text": "a"}))
    assert sizes == [5]


def test_prediction_of_another_bundle_is_503():
    sizes: list[int] = []
    model = client(prediction("answer", "h2", batch_size=5), count_batch=sizes.append)
    with pytest.raises(ProblemError, match="runs bundle h2, but the service was started with h1") as error:
        asyncio.run(model.predict({"text": "a"}))
    assert error.value.status == 503
    assert sizes == []


def test_description_of_another_bundle_is_503():
    other = Description("classify", "fake", "h2", ("image",), {})
    for method in (ModelClient.describe, ModelClient.kind, lambda model: model.match_score({"image": b""})):
        with pytest.raises(ProblemError, match="runs bundle h2") as error:
            asyncio.run(method(client(other)))
        assert error.value.status == 503


def test_kind_and_score_need_one_description():
    async def run() -> tuple[str, float | None, float | None]:
        model = client(DESCRIPTION)
        return await model.kind(), await model.match_score({"image": b""}), await model.match_score({"text": "a"})

    assert asyncio.run(run()) == ("classify", 0.5, None)
