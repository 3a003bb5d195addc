import asyncio
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import ray

from galleria.errors import BundleError
from galleria.families.text_guided.recipes import debug
from galleria.learn.bundle import save_bundle
from galleria.learn.family import load_family
from galleria.learn.recipes import load_recipe
from galleria.serving.config import SEARCH, BundleLocation, ServiceConfig
from galleria.serving.gateway import Gateway
from galleria.serving.inference.eager import TORCH_LOCK
from galleria.serving.inference.server import ModelServer
from galleria.serving.traffic_split import TrafficSplit
from tests.drawings import drawing
from tests.serving.bundles import contract_rows, random_bundle
from tests.serving.conftest import catalog_of, embed, location_of, reference_of


@pytest.fixture(scope="module")
def server(catalogue):
    return ModelServer(catalogue.config, SEARCH, reference_of(catalogue.bundle))


def test_describe_names_family_hash_and_inputs(server, bundle):
    description = asyncio.run(server.describe(location_of(bundle)))
    assert (description.family, description.hash) == ("text_guided", bundle.hash)
    assert (description.kind, description.dimension, description.levels) == ("search", 32, 0)
    assert description.inputs == ("image", "text")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("inference", "cpus", "threads"), [("deployed", 3, 3), ("deployed", 0, 1), ("local", 3, 3), ("local", 0, None)]
)
def test_networks_use_the_reserved_cpus(ray_instance, inference, cpus, threads):
    @ray.remote(num_cpus=cpus)
    class Replica:
        def threads(self):
            from galleria.serving.inference.server import _network_threads

            return _network_threads(ServiceConfig(bundle="-", table="-", index="-", inference=inference))

    replica = Replica.remote()
    assert ray.get(replica.threads.remote()) == (threads or len(os.sched_getaffinity(0)))
    ray.kill(replica)


def test_describe_counts_levels(tree):
    server = ModelServer(
        ServiceConfig(bundle=str(tree.bundle.path), table="-", index="-", runtime="torch"),
        SEARCH,
        reference_of(tree.bundle),
    )
    assert asyncio.run(server.describe(location_of(tree.bundle))).levels == 3


def test_mixed_batch_equals_single_rows(server, bundle):
    rows = [{"image": drawing(1)}, {"text": "thing number 3"}, {"image": drawing(2)}, {"text": "thing"}]
    outcomes = asyncio.run(server.predict_rows(rows, location_of(bundle)))
    for row, outcome in zip(rows, outcomes, strict=True):
        assert outcome.bundle_hash == bundle.hash
        np.testing.assert_allclose(outcome.unwrap()["embedding"], embed(bundle, [row])[0], atol=1e-6)


def test_bad_row_fails_alone(server, bundle):
    image = drawing(3)
    rows = [{"image": image}, {"image": image[:-40]}, {"image": b"<svg/>"}, {"image": b""}, {"image": image}]
    outcomes = asyncio.run(server.predict_rows(rows, location_of(bundle)))
    assert [outcome.error for outcome in outcomes] == [
        "", "BrokenMediaError", "UnsupportedMediaError", "BrokenMediaError", ""
    ]  # fmt: skip
    np.testing.assert_array_equal(outcomes[0].unwrap()["embedding"], outcomes[4].unwrap()["embedding"])


def test_row_that_breaks_family_fails_alone(server, bundle):
    outcomes = asyncio.run(server.predict_rows([{"image": 7}, {"text": "a"}], location_of(bundle)))
    assert outcomes[0].answer is None
    assert outcomes[1].answer is not None
    with pytest.raises(RuntimeError, match="the model failed"):
        outcomes[0].unwrap()


def test_bundle_with_another_hash_is_rejected(catalogue):
    split = reference_of(catalogue.bundle)
    other = BundleLocation(str(catalogue.bundle.path), "0123456789abcdef")
    with pytest.raises(BundleError, match="was started for 0123456789ab"):
        ModelServer(catalogue.config, SEARCH, TrafficSplit(split.main._replace(bundle=other)))


def test_bundle_whose_network_fails_is_rejected(tmp_path):
    family = load_family("aesthetic_emotion")
    context = family.context(load_recipe("aesthetic_emotion", "debug").model, contract_rows("aesthetic_emotion"))
    network = family.build(context.config)
    unnamed = replace(context, labels=dict.fromkeys(context.labels, ()))
    bundle = save_bundle(tmp_path / "bundle", family, unnamed, network, {}, "# No names of classes\n")
    config = ServiceConfig(models={"mood": str(bundle.path)}, runtime="torch")
    with pytest.raises(BundleError, match=r"its network fails on a query of image \(IndexError"):
        ModelServer(config, "mood", reference_of(bundle))


def test_text_without_text_tower_is_rejected(rows, tmp_path):
    family = load_family("text_guided")
    context = family.context(debug().model.model_copy(update={"text": None}), rows)
    bundle = save_bundle(tmp_path / "bundle", family, context, family.build(context.config), {}, "# No words\n")
    config = ServiceConfig(bundle=str(bundle.path), table="-", index="-", runtime="torch")
    server = ModelServer(config, SEARCH, reference_of(bundle))
    assert asyncio.run(server.describe(location_of(bundle))).inputs == ("image",)
    (outcome,) = asyncio.run(server.predict_rows([{"text": "shoe"}], location_of(bundle)))
    assert (outcome.error, outcome.message) == (
        "DataError", "this model does not read text: search with a picture or a vector"
    )  # fmt: skip


def test_stuck_network_is_unhealthy(catalogue, bundle):
    server = ModelServer(catalogue.config, SEARCH, reference_of(bundle), health_timeout_s=0.05)
    asyncio.run(server.check_health())
    with stuck(server) as started:
        started.wait()
        time.sleep(0.06)
        with pytest.raises(TimeoutError):
            asyncio.run(server.check_health())
    asyncio.run(server.check_health())


def test_waiting_batch_is_not_stuck(catalogue, bundle):
    server = ModelServer(catalogue.config, SEARCH, reference_of(bundle), health_timeout_s=0.5)
    words = bundle.family.example({"text": "a"}, bundle.context, None)
    with TORCH_LOCK:
        prediction = server._predict_threads.submit(server._predict, server.load(location_of(bundle)), [words])
        time.sleep(0.6)
        assert [*server._running.values()] == [math.inf]
    assert prediction.result()[0].answer is not None
    assert server._running == {}


def test_gateway_with_stuck_network_is_unhealthy(catalogue, bundle):
    gateway = Gateway(catalogue.config, {SEARCH: reference_of(bundle, catalog_of(catalogue.config, bundle))}, {})
    [server] = gateway._servers.values()
    asyncio.run(gateway.check_health())
    server._health_timeout_s = 0.05
    with stuck(server) as started:
        started.wait()
        time.sleep(0.06)
        with pytest.raises(TimeoutError):
            asyncio.run(gateway.check_health())
    gateway.close()


@contextmanager
def stuck(server):
    """Keep a batch in the network for as long as the block lasts; yield an event that is set once it is there."""
    started, release = threading.Event(), threading.Event()

    class Stuck:
        def predict(self, read):
            server._on_start()
            started.set()
            release.wait(60)
            return read

    batch = server._predict_threads.submit(server._predict, Stuck(), [])
    try:
        yield started
    finally:
        release.set()
        batch.result()


@pytest.fixture(scope="module")
def moods(tmp_path_factory):
    """Bundles of one family with different weights."""
    folder = tmp_path_factory.mktemp("moods")
    return [random_bundle("aesthetic_emotion", folder / str(seed), seed=seed) for seed in range(5)]


def test_row_is_run_by_its_bundle(moods):
    server = ModelServer(ServiceConfig(models={"mood": "-"}, runtime="torch"), "mood", reference_of(moods[0]))
    rows = [({"image": drawing(1)}, location_of(moods[number])) for number in (0, 1, 0, 2, 1)]
    outcomes = asyncio.run(server._predict_batch(rows))
    assert [outcome.bundle_hash for outcome in outcomes] == [location.hash for _, location in rows]
    assert outcomes[0].unwrap() == outcomes[2].unwrap() != outcomes[1].unwrap()


def test_missing_bundle_fails_its_rows_alone(moods):
    server = ModelServer(ServiceConfig(models={"mood": "-"}, runtime="torch"), "mood", reference_of(moods[0]))
    row = {"image": drawing(1)}
    first, missing = asyncio.run(
        server._predict_batch([(row, location_of(moods[0])), (row, BundleLocation("nowhere", "h"))])
    )
    assert first.answer is not None
    assert missing.error == "BundleError"


def test_last_used_bundles_stay_loaded(moods):
    server = ModelServer(ServiceConfig(models={"mood": "-"}, runtime="torch"), "mood", reference_of(moods[0]))
    for tried in moods[1:]:
        for bundle in (tried, moods[0]):
            asyncio.run(server.predict_rows([{"image": drawing(1)}], location_of(bundle)))
    locations = [location_of(bundle) for bundle in moods]
    loaded = [location for location in locations if server._models.get(location) is not None]
    assert loaded == [locations[0], *locations[-2:]]


@pytest.mark.slow
def test_runtime_auto_equals_torch(bundle):
    config = ServiceConfig(bundle=str(bundle.path), table="-", index="-")
    server = ModelServer(config, SEARCH, reference_of(bundle))
    assert asyncio.run(server.describe(location_of(bundle))).runtime in ("torch", "onnx")
    rows = [{"image": drawing(seed)} for seed in range(5)]
    for row, outcome in zip(rows, asyncio.run(server.predict_rows(rows, location_of(bundle))), strict=True):
        np.testing.assert_allclose(outcome.unwrap()["embedding"], embed(bundle, [row])[0], atol=1e-3)


def test_bundle_is_loaded_once_by_many_threads(moods):
    server = ModelServer(ServiceConfig(models={"mood": "-"}, runtime="torch"), "mood", reference_of(moods[0]))
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(server.load, [location_of(moods[1])] * 4))
    assert all(model is models[0] for model in models)
    assert models[0].description.hash == moods[1].hash
