import asyncio
import threading

import numpy as np
import pytest

from galleria.errors import BundleError
from galleria.families.text_guided.recipes import debug
from galleria.learn.bundle import save_bundle
from galleria.learn.family import load_family
from galleria.serving.embedder import Embedder
from galleria.serving.schemas import ServiceArguments
from tests.drawings import drawing
from tests.serving.conftest import embed


@pytest.fixture(scope="module")
def embedder(catalogue):
    return Embedder(catalogue.arguments, catalogue.bundle.hash)


def test_says_what_it_runs(embedder, bundle):
    description = asyncio.run(embedder.describe())
    assert (description.family, description.hash) == ("text_guided", bundle.hash)
    assert (description.dimension, description.inputs) == (32, ("image", "text"))


def test_a_mixed_batch_agrees_with_predict_row_by_row(embedder, bundle):
    rows = [{"image": drawing(1)}, {"text": "thing number 3"}, {"image": drawing(2)}, {"text": "thing"}]
    found = asyncio.run(embedder.embed_rows(rows))
    for row, outcome in zip(rows, found, strict=True):
        assert outcome.bundle_hash == bundle.hash
        np.testing.assert_allclose(outcome.unwrap(), embed(bundle, [row])[0], atol=1e-6)


def test_a_bad_row_fails_alone(embedder):
    whole = drawing(3)
    rows = [{"image": whole}, {"image": whole[:-40]}, {"image": b"<svg/>"}, {"image": b""}, {"image": whole}]
    found = asyncio.run(embedder.embed_rows(rows))
    assert [outcome.error for outcome in found] == [
        "", "BrokenMediaError", "UnsupportedMediaError", "BrokenMediaError", ""
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0].unwrap(), found[4].unwrap())


def test_a_row_that_makes_our_code_fail_fails_alone(embedder):
    found = asyncio.run(embedder.embed_rows([{"image": 7}, {"text": "a"}]))
    assert found[0].vector is None
    assert found[1].vector is not None
    with pytest.raises(RuntimeError, match="the embedder failed"):
        found[0].unwrap()


def test_another_bundle_than_the_indexs_is_refused(catalogue):
    with pytest.raises(BundleError, match="was started for 0123456789ab"):
        Embedder(catalogue.arguments, "0123456789abcdef")


def test_without_a_text_tower_words_are_refused_with_the_reason(rows, tmp_path):
    family = load_family("text_guided")
    context = family.context(debug().model.model_copy(update={"text": None}), rows)
    bundle = save_bundle(tmp_path / "bundle", family, context, family.build(context.config), {}, "# No words\n")
    embedder = Embedder(ServiceArguments(bundle=str(bundle.path), table="-", index="-"), bundle.hash)
    assert asyncio.run(embedder.describe()).inputs == ("image",)
    (outcome,) = asyncio.run(embedder.embed_rows([{"text": "shoe"}]))
    assert (outcome.error, outcome.message) == (
        "DataError", "this model does not read text: search with a picture or a vector"
    )  # fmt: skip


def test_a_stuck_network_is_unhealthy(catalogue, bundle):
    embedder = Embedder(catalogue.arguments, bundle.hash, health_seconds=0.05)
    asyncio.run(embedder.check_health())
    release = threading.Event()
    stuck = embedder._computing.submit(release.wait)
    try:
        with pytest.raises(TimeoutError):
            asyncio.run(embedder.check_health())
    finally:
        release.set()
        stuck.result()
