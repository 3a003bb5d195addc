import asyncio
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from galleria.serving.config import BundleLocation
from galleria.serving.inference.client import ModelClient, deployed
from galleria.serving.schemas.problems import ProblemError

PLACE = BundleLocation("bundle", "h1")


class Handle:
    """Answers or raises what it was given, call by call."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.describe = SimpleNamespace(remote=self.remote)

    async def remote(self, *_values: object) -> object:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, float):
            await asyncio.sleep(outcome)
        return outcome


def call(*outcomes: object) -> object:
    model = ModelClient(deployed(Handle(*outcomes)), "gender", PLACE, seconds=0.1, video_timeout_s=9)
    return asyncio.run(model.predict({"text": "a"}))


def test_a_query_lost_with_its_replica_is_sent_once_more():
    assert call(ActorDiedError(), "answer") == "answer"


@pytest.mark.parametrize(
    ("outcomes", "said", "status"),
    [
        ((ActorDiedError(), ActorDiedError()), "not running", 503),
        ((DeploymentUnavailableError("Model"),), "not running", 503),
        ((BackPressureError(1, 1),), "too many", 429),
        ((5.0,), "longer than 0.1 s", 503),
    ],
)
def test_a_model_that_cannot_answer_now_says_when_to_ask_again(outcomes, said, status):
    with pytest.raises(ProblemError, match=said) as error:
        call(*outcomes)
    assert error.value.status == status
    assert error.value.headers["Retry-After"] == "1"


def test_a_video_may_take_longer():
    model = ModelClient(deployed(Handle(0.2)), "party", PLACE, seconds=0.05, video_timeout_s=5)
    assert asyncio.run(model.predict({"video": b"film"})) == 0.2


def test_describe_goes_the_same_way():
    assert asyncio.run(ModelClient(deployed(Handle("description")), "gender", PLACE, 1, 1).describe()) == "description"
