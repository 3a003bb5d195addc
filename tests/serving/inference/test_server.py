import asyncio
import math
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from galleria.errors import BundleError
from galleria.families.text_guided.recipes import debug
from galleria.learn.bundle import save_bundle
from galleria.learn.family import load_family
from galleria.serving.config import SEARCH, BundleLocation, ServiceConfig
from galleria.serving.gateway import Gateway
from galleria.serving.inference.model import ONE
from galleria.serving.inference.server import ModelServer
from tests.drawings import drawing
from tests.serving.bundles import random_bundle
from tests.serving.conftest import catalog_of, choice_of, embed, place_of


@pytest.fixture(scope="module")
def server(catalogue):
    return ModelServer(catalogue.config, SEARCH, choice_of(catalogue.bundle))


def test_says_what_it_runs(server, bundle):
    description = asyncio.run(server.describe(place_of(bundle)))
    assert (description.family, description.hash) == ("text_guided", bundle.hash)
    assert (description.kind, description.dimension, description.levels) == ("search", 32, 0)
    assert description.inputs == ("image", "text")


def test_says_how_many_levels_may_be_weighed(tree):
    server = ModelServer(
        ServiceConfig(bundle=str(tree.bundle.path), table="-", index="-", runtime="torch"),
        SEARCH,
        choice_of(tree.bundle),
    )
    assert asyncio.run(server.describe(place_of(tree.bundle))).levels == 3


def test_a_mixed_batch_agrees_with_predict_row_by_row(server, bundle):
    rows = [{"image": drawing(1)}, {"text": "thing number 3"}, {"image": drawing(2)}, {"text": "thing"}]
    found = asyncio.run(server.predict_rows(rows, place_of(bundle)))
    for row, outcome in zip(rows, found, strict=True):
        assert outcome.bundle_hash == bundle.hash
        np.testing.assert_allclose(outcome.unwrap()["embedding"], embed(bundle, [row])[0], atol=1e-6)


def test_a_bad_row_fails_alone(server, bundle):
    whole = drawing(3)
    rows = [{"image": whole}, {"image": whole[:-40]}, {"image": b"<svg/>"}, {"image": b""}, {"image": whole}]
    found = asyncio.run(server.predict_rows(rows, place_of(bundle)))
    assert [outcome.error for outcome in found] == [
        "", "BrokenMediaError", "UnsupportedMediaError", "BrokenMediaError", ""
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0].unwrap()["embedding"], found[4].unwrap()["embedding"])


def test_a_row_that_makes_our_code_fail_fails_alone(server, bundle):
    found = asyncio.run(server.predict_rows([{"image": 7}, {"text": "a"}], place_of(bundle)))
    assert found[0].answer is None
    assert found[1].answer is not None
    with pytest.raises(RuntimeError, match="the model failed"):
        found[0].unwrap()


def test_another_bundle_than_the_indexs_is_refused(catalogue):
    found = choice_of(catalogue.bundle)
    other = BundleLocation(str(catalogue.bundle.path), "0123456789abcdef")
    with pytest.raises(BundleError, match="was started for 0123456789ab"):
        ModelServer(catalogue.config, SEARCH, found._replace(main=found.main._replace(bundle=other)))


def test_without_a_text_tower_words_are_refused_with_the_reason(rows, tmp_path):
    family = load_family("text_guided")
    context = family.context(debug().model.model_copy(update={"text": None}), rows)
    bundle = save_bundle(tmp_path / "bundle", family, context, family.build(context.config), {}, "# No words\n")
    config = ServiceConfig(bundle=str(bundle.path), table="-", index="-", runtime="torch")
    server = ModelServer(config, SEARCH, choice_of(bundle))
    assert asyncio.run(server.describe(place_of(bundle))).inputs == ("image",)
    (outcome,) = asyncio.run(server.predict_rows([{"text": "shoe"}], place_of(bundle)))
    assert (outcome.error, outcome.message) == (
        "DataError", "this model does not read text: search with a picture or a vector"
    )  # fmt: skip


def test_a_stuck_network_is_unhealthy(catalogue, bundle):
    server = ModelServer(catalogue.config, SEARCH, choice_of(bundle), health_seconds=0.05)
    asyncio.run(server.check_health())
    with stuck(server) as began:
        began.wait()
        time.sleep(0.06)
        with pytest.raises(TimeoutError):
            asyncio.run(server.check_health())
    asyncio.run(server.check_health())


def test_a_batch_that_waits_for_another_models_is_not_stuck(catalogue, bundle):
    server = ModelServer(catalogue.config, SEARCH, choice_of(bundle), health_seconds=0.5)
    words = bundle.family.example({"text": "a"}, bundle.context, None)
    with ONE:
        asked = server._computing.submit(server._predict, server.load(place_of(bundle)), [words])
        time.sleep(0.6)
        assert [*server._running.values()] == [math.inf]
    assert asked.result()[0].answer is not None
    assert server._running == {}


def test_a_gateway_whose_own_network_is_stuck_is_unhealthy(catalogue, bundle):
    gateway = Gateway(catalogue.config, {SEARCH: choice_of(bundle, catalog_of(catalogue.config, bundle))}, {})
    [server] = gateway._servers.values()
    asyncio.run(gateway.check_health())
    server._health_seconds = 0.05
    with stuck(server) as began:
        began.wait()
        time.sleep(0.06)
        with pytest.raises(TimeoutError):
            asyncio.run(gateway.check_health())


@contextmanager
def stuck(server):
    """A batch that stays in the network for as long as the block lasts; yields what is set once it is there."""
    began, release = threading.Event(), threading.Event()

    class Stuck:
        def predict(self, read):
            server._began()
            began.set()
            release.wait(60)
            return read

    batch = server._computing.submit(server._predict, Stuck(), [])
    try:
        yield began
    finally:
        release.set()
        batch.result()


@pytest.fixture(scope="module")
def moods(tmp_path_factory):
    """Bundles of one family with different weights."""
    folder = tmp_path_factory.mktemp("moods")
    return [random_bundle("aesthetic_emotion", folder / str(seed), seed=seed) for seed in range(5)]


def test_every_row_is_answered_by_the_bundle_that_it_names(moods):
    server = ModelServer(ServiceConfig(models={"mood": "-"}, runtime="torch"), "mood", choice_of(moods[0]))
    rows = [({"image": drawing(1)}, place_of(moods[number])) for number in (0, 1, 0, 2, 1)]
    found = asyncio.run(server._answer(rows))
    assert [outcome.bundle_hash for outcome in found] == [place.hash for _, place in rows]
    assert found[0].unwrap() == found[2].unwrap() != found[1].unwrap()


def test_a_bundle_that_is_gone_fails_its_own_rows_alone(moods):
    server = ModelServer(ServiceConfig(models={"mood": "-"}, runtime="torch"), "mood", choice_of(moods[0]))
    row = {"image": drawing(1)}
    here, gone = asyncio.run(server._answer([(row, place_of(moods[0])), (row, BundleLocation("nowhere", "h"))]))
    assert here.answer is not None
    assert gone.error == "BundleError"


def test_the_bundles_that_were_asked_last_stay_loaded(moods):
    server = ModelServer(ServiceConfig(models={"mood": "-"}, runtime="torch"), "mood", choice_of(moods[0]))
    for tried in moods[1:]:
        for bundle in (tried, moods[0]):
            asyncio.run(server.predict_rows([{"image": drawing(1)}], place_of(bundle)))
    places = [place_of(bundle) for bundle in moods]
    kept = [place for place in places if server._loaded.get(place) is not None]
    assert kept == [places[0], *places[-2:]]
