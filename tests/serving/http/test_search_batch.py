"""Match scores of a search, and several searches in one request."""

import asyncio
import base64

import numpy as np
import pytest

from galleria.serving.http.search import MAX_BATCH_HITS
from galleria.serving.inference.types import Prediction
from tests.drawings import drawing
from tests.serving.conftest import LIMITS, FakeModel, FakeSearcher, ask, fake_app, problem

FOUND = Prediction("h1", {"embedding": np.array([0.8, 0.6], np.float32)})  # hits a and b score .8 and .6
IMAGE = base64.b64encode(drawing(1)).decode()


def measured(kept: float = 0.9, **scores: float) -> FakeModel:
    """Return a model whose evaluation has these scores, each of which keeps a share of the matches."""
    metrics = {name.replace("__", "/"): value for name, value in scores.items()}
    return FakeModel(FOUND, metrics=metrics | {name.replace("/score", "/kept"): kept for name in metrics})


def search(app, **query):
    answer = ask(app, "POST", "/v1/search", json=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("score", "no_match", "kept"), [(0.7, False, ["a"]), (0.5, False, ["a", "b"]), (0.9, True, [])]
)
def test_no_match_is_reported(score, no_match, kept):
    app = fake_app(measured(no_match__score=score))
    answer = search(app, image=IMAGE)
    assert (answer["match_score"], answer["no_match"]) == (score, no_match)
    assert [hit["id"] for hit in answer["hits"]] == ["a", "b"], "they are left out only with min_score"
    cut = search(app, image=IMAGE, min_score="calibrated")
    assert [hit["id"] for hit in cut["hits"]] == kept
    assert cut["no_match"] is no_match


def test_min_score_keeps_no_match():
    app = fake_app(measured(no_match__score=0.7))
    answer = search(app, image=IMAGE, min_score=0.9)
    assert (answer["hits"], answer["no_match"]) == ([], False)


def test_text_has_its_own_match_score():
    app = fake_app(measured(no_match__score=0.9, text__no_match__score=0.3))
    assert search(app, image=IMAGE)["match_score"] == 0.9
    assert search(app, text="red")["match_score"] == 0.3


def test_form_accepts_min_score():
    app = fake_app(measured(no_match__score=0.7))
    sent = {"files": {"image": drawing(1)}, "data": {"min_score": "calibrated", "k": "2"}}
    assert [hit["id"] for hit in ask(app, "POST", "/v1/search", **sent).json()["hits"]] == ["a"]
    sent["data"]["min_score"] = "0.5"
    assert len(ask(app, "POST", "/v1/search", **sent).json()["hits"]) == 2
    sent["data"]["min_score"] = "good"
    assert "min_score" in problem(ask(app, "POST", "/v1/search", **sent), 422)["detail"]


@pytest.mark.parametrize(
    "query",
    [
        {"vector": [1, 0]},
        {"text": "red"},
        {"image": IMAGE, "level_weights": [1.0]},
        {"mix": [{"image": IMAGE}, {"text": "red"}]},
    ],
)
def test_calibrated_score_needs_a_metric(query):
    app = fake_app(measured(no_match__score=0.7))
    rejected = problem(ask(app, "POST", "/v1/search", json={**query, "min_score": "calibrated"}), 422)
    assert "give a number" in rejected["detail"]


@pytest.mark.parametrize("query", [{"image": IMAGE}, {"text": "red"}])
@pytest.mark.parametrize(("kept", "score", "no_match"), [(0.085, None, None), (0.49, None, None), (0.5, 0.9, True)])
def test_low_kept_gives_no_verdict(query, kept, score, no_match):
    app = fake_app(measured(kept, no_match__score=0.9, text__no_match__score=0.9))
    answer = search(app, **query)
    assert (answer["match_score"], answer["no_match"]) == (score, no_match)
    assert [hit["id"] for hit in answer["hits"]] == ["a", "b"]
    calibrated = ask(app, "POST", "/v1/search", json={**query, "min_score": "calibrated"})
    assert calibrated.status_code == (422 if score is None else 200)
    if score is None:
        assert "no_match/kept" in problem(calibrated, 422)["detail"]


def test_score_without_kept_gives_no_verdict():
    answer = search(fake_app(FakeModel(FOUND, metrics={"no_match/score": 0.7})), image=IMAGE)
    assert (answer["match_score"], answer["no_match"]) == (None, None)


def test_later_page_has_no_match_result():
    app = fake_app(measured(no_match__score=0.7))
    assert search(app, image=IMAGE, offset=1)["no_match"] is None


def test_batch_keeps_order_and_fails_alone():
    app = fake_app(FakeModel(FOUND))
    queries = [
        {"text": "red"},
        {"vector": [0, 1], "k": 1},
        {"text": " "},
        {"vector": [1]},
        {"k": 3},
        {"text": "a", "k": 9999},
    ]
    answer = ask(app, "POST", "/v1/search/batch", json={"queries": queries})
    assert answer.status_code == 200
    outcomes = answer.json()["outcomes"]
    assert [outcome["status"] for outcome in outcomes] == [200, 200, 422, 500, 422, 422]
    assert [hit["id"] for hit in outcomes[0]["answer"]["hits"]] == ["a", "b"]
    assert [hit["id"] for hit in outcomes[1]["answer"]["hits"]] == ["b"]
    assert "is empty" in outcomes[2]["problem"]["detail"]
    assert "over the limit" in outcomes[5]["problem"]["detail"]
    for outcome in outcomes[2:]:
        assert outcome["answer"] is None
        assert outcome["problem"]["request_id"] == answer.headers["x-request-id"]


def test_batched_search_equals_single_search():
    app = fake_app(FakeModel(FOUND))
    alone = search(app, text="red", k=1)
    [outcome] = ask(app, "POST", "/v1/search/batch", json={"queries": [{"text": "red", "k": 1}]}).json()["outcomes"]
    for timed in ("stages", "latency_ms"):
        assert alone.pop(timed)
        assert outcome["answer"].pop(timed)
    assert outcome["answer"] == alone


@pytest.mark.parametrize("query", [{"k": LIMITS.results}, {"k": 1, "offset": LIMITS.results - 1}])
def test_batch_shares_a_budget_of_hits(query):
    app = fake_app(FakeModel(FOUND))
    queries = [{"vector": [1, 0], **query}] * (1 + MAX_BATCH_HITS // LIMITS.results)
    outcomes = ask(app, "POST", "/v1/search/batch", json={"queries": queries}).json()["outcomes"]
    assert [outcome["status"] for outcome in outcomes].count(200) == MAX_BATCH_HITS // LIMITS.results
    assert "of all queries together" in outcomes[-1]["problem"]["detail"]


def test_batch_ends_after_the_timeout():
    """The searches that have begun by then are answered."""

    class Slow(FakeSearcher):
        async def search(self, *values):
            await asyncio.sleep(0.55)
            return await super().search(*values)

    app = fake_app(FakeModel(FOUND), Slow(), predict_timeout_s=0.5)
    outcomes = ask(app, "POST", "/v1/search/batch", json={"queries": [{"vector": [1, 0]}] * 9}).json()["outcomes"]

    late = [outcome["problem"] for outcome in outcomes if outcome["status"] == 503]
    assert 0 < len(late) < 9
    assert all("the queries before it took too long: send fewer" in problem["detail"] for problem in late)


@pytest.mark.parametrize(
    ("body", "said"), [({"queries": []}, "at least 1"), ({}, "required"), ({"queries": [{}] * 2000}, "are 2000")]
)
def test_invalid_batch_is_rejected(body, said):
    assert (
        said in problem(ask(fake_app(FakeModel(FOUND)), "POST", "/v1/search/batch", json=body), 422)["detail"].lower()
    )
