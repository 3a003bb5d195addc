"""What the gateway counts, and how it is exported."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from galleria.serving.config import SEARCH
from galleria.serving.http.keys import read_keys
from galleria.serving.inference.types import Prediction
from galleria.serving.schemas.responses import ModelVersion
from galleria.serving.traffic_split import TrafficSplit
from tests.drawings import drawing
from tests.serving.conftest import FakeModel, ask, fake_app, model_client

FOUND = Prediction("h1", {"embedding": np.array([1, 0], np.float32)})


def counted(app, **options):
    answer = ask(app, "GET", "/metrics", **options)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = (sample for family in text_string_to_metric_families(answer.text) for sample in family.samples)
    order = ("route", "status", "method", "stage", "family", "hash", "name", "model")
    return {(one.name, *(one.labels[name] for name in order if name in one.labels)): one.value for one in samples}


def test_requests_are_counted_by_route():
    app = fake_app(FakeModel(FOUND))
    for name in ("a", "b", "nobody", "none"):
        ask(app, "GET", f"/v1/items/{name}")
    ask(app, "GET", "/made/up/1")
    ask(app, "GET", "/made/up/2")
    ask(app, "POST", "/v1/search", json={"vector": [1]})
    found = counted(app)
    for status in ("200", "404"):
        assert found["galleria_requests_total", "/v1/items/{item_id}", status, "GET"] == 2
    assert found["galleria_request_seconds_count", "/v1/items/{item_id}"] == 4
    assert found["galleria_request_seconds_count", "other"] == 2
    assert found["galleria_requests_in_flight",] == 1, "this one"
    assert not any("made" in label for name in found for label in name)


def test_stages_are_summed():
    app = fake_app(FakeModel(FOUND), mood=FakeModel(Prediction("h1", {"label": "calm"}), kind="classify"))
    for _ in range(3):
        ask(app, "POST", "/v1/search", files={"image": drawing(1)})
    ask(app, "POST", "/v1/search/batch", json={"queries": [{"text": "red"}, {"text": " "}, {"text": "blue"}]})
    ask(app, "POST", "/v1/classify/mood", files={"image": drawing(1)})
    found = counted(app)
    for stage, count in (("embed", 5), ("search", 5), ("fetch", 5), ("read", 6), ("predict", 1)):
        assert found["galleria_stage_seconds_count", stage] == count
        assert found["galleria_stage_seconds_sum", stage] > 0


def test_durations_are_in_seconds():
    app = fake_app(FakeModel(FOUND))
    started = time.perf_counter()
    assert ask(app, "POST", "/v1/search", json={"text": "red"}).status_code == 200
    elapsed_s = time.perf_counter() - started
    found = counted(app)
    assert 0 < found["galleria_request_seconds_sum", "/v1/search"] < elapsed_s
    assert 0 < found["galleria_response_seconds_sum", "search"] < elapsed_s
    assert 0 < sum(value for name, value in found.items() if name[0] == "galleria_stage_seconds_sum") < elapsed_s


def test_queues_and_batches_are_reported_by_model():
    many = replace(FOUND, batch_size=5)
    app = fake_app(FakeModel(many), mood=FakeModel(Prediction("h1", {"label": "calm"}), kind="classify"))
    assert ("galleria_queue_depth", "mood") not in counted(app), "no request yet"
    for _ in range(2):
        ask(app, "POST", "/v1/search", files={"image": drawing(1)})
    ask(app, "POST", "/v1/classify/mood", files={"image": drawing(1)})
    found = counted(app)
    assert (found["galleria_batch_rows_count", "search"], found["galleria_batch_rows_sum", "search"]) == (2, 10)
    assert (found["galleria_batch_rows_count", "mood"], found["galleria_batch_rows_sum", "mood"]) == (1, 1)
    for model in ("search", "mood"):
        assert found["galleria_queue_depth", model] == 0
        assert found["galleria_queue_limit", model] == 4, "all that wait, of this service"


def test_catalogue_and_bundles_are_reported():
    found = counted(fake_app(FakeModel(FOUND)))
    assert found["galleria_catalog_version",] == 7
    assert found["galleria_catalog_items",] == 2
    assert found["galleria_catalog_unindexed",] == 0
    assert found["galleria_model_info", "fake", "h1", "search"] == 1


def test_model_info_follows_releases():
    app = fake_app(FakeModel(FOUND))
    assert counted(app)["galleria_model_info", "fake", "h1", "search"] == 1
    services = app.state.services
    version = ModelVersion(family="fake", hash="h2")
    model = model_client(services.config, SEARCH, version, FakeModel(FOUND, "h2"))
    services.search.split = TrafficSplit(replace(services.search.split.main, model=model))
    info = [name for name in counted(app) if name[0] == "galleria_model_info"]
    assert info == [("galleria_model_info", "fake", "h2", "search")]


def test_rejections_count_and_metrics_need_a_key():
    app = fake_app(FakeModel(FOUND), keys=read_keys("", {"GALLERIA_READ_KEY": "k"}))
    assert ask(app, "GET", "/metrics").status_code == 401
    found = counted(app, headers={"authorization": "Bearer k"})
    assert found["galleria_requests_total", "other", "401", "GET"] == 1


def test_dashboard_shows_known_metrics():
    app = fake_app(FakeModel(FOUND))
    ask(app, "POST", "/v1/search", files={"image": drawing(1)})
    known = {name[0] for name in counted(app)}
    dashboard = json.loads((Path(__file__).parents[3] / "docs" / "grafana.json").read_text())
    expressions = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    named = set(re.findall(r"galleria_\w+", expressions))
    assert named <= known
    assert {name for name in known if name.startswith("galleria_catalog")} <= named


@pytest.mark.ray
def test_running_service_counts_requests(client):
    client.post("/v1/search", json={"vector": [1.0] * 32})
    assert client.get("/readyz").json() == {"status": "ready", "degraded": []}
    lines = client.get("/metrics").text.splitlines()
    writer = ("galleria_writer_pending_seconds", "galleria_maintenance_failures", "galleria_catalog_lag_versions")
    assert {f"{name} 0.0" for name in writer} <= {*lines}
    assert "galleria_ready 1.0" in lines
    assert 'galleria_requests_total{method="POST",route="/v1/search",status="200"}' in client.get("/metrics").text
