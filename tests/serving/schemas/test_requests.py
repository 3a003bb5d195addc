import base64

import pytest
from pydantic import ValidationError

from galleria.media.limits import LIMITS
from galleria.serving.config import ServiceConfig
from galleria.serving.schemas.requests import SearchRequest

PATHS = {"bundle": "b", "table": "t", "index": "i"}


def test_image_is_base64_data_uri_or_bytes():
    encoded = base64.b64encode(b"\x89PNG\xff").decode()
    for value in (encoded, f"data:image/png;base64,{encoded}"):
        assert SearchRequest.model_validate_json(f'{{"image": "{value}"}}').image == b"\x89PNG\xff"
    assert SearchRequest.model_validate({"image": b"\x89PNG\xff"}).image == b"\x89PNG\xff"


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ('{"image": "not base64!"}', "image", "base64"),
        ('{"image": 5}', "image", "bytes"),
        ('{"text": "  "}', "text", "empty"),
        ('{"vector": []}', "vector", "at least 1"),
        ('{"vector": [1, NaN]}', "vector", "finite"),
        ('{"vector": [1, "x"]}', "vector", "number"),
        ('{"text": "a", "level_weights": [-1, 2]}', "level_weights", "greater than or equal to 0"),
        ('{"text": "a", "k": 0}', "k", "greater than or equal to 1"),
        ('{"text": "a", "k": 1.5}', "k", "integer"),
        ('{"text": "a", "limit": 3}', "limit", "not permitted"),
    ],
)
def test_invalid_field_is_named(body, field, said):
    with pytest.raises(ValidationError) as error:
        SearchRequest.model_validate_json(body)
    assert error.value.errors()[0]["loc"][0] == field
    assert said in error.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("body", "given"),
    [("{}", "none"), ('{"text": "a", "vector": [1]}', "text and vector"), ('{"image": null}', "none")],
)
def test_search_needs_exactly_one_query(body, given):
    with pytest.raises(ValidationError, match=f"exactly one of image, text, vector, item and mix, not {given}"):
        SearchRequest.model_validate_json(body)


def test_parts_of_a_mix_weigh_one_each():
    body = {"mix": [{"text": "a"}, {"item": "b", "weight": -0.5}]}
    assert [part.weight for part in SearchRequest.model_validate(body).mix] == [1.0, -0.5]


def test_config_rejects_unknown_option():
    with pytest.raises(ValidationError, match="bundel"):
        ServiceConfig(**PATHS, bundel="x")


def test_config_rejects_unsupported_limits():
    assert ServiceConfig(**PATHS, limits={"image_bytes": 10}).limits.image_bytes == 10
    with pytest.raises(ValidationError, match="image_bytes can be lowered, but not raised over 50,000,000"):
        ServiceConfig(**PATHS, limits={"image_bytes": LIMITS.image_bytes + 1})
    assert ServiceConfig(**PATHS, limits={"video_bytes": 10}).limits.video_bytes == 10
    with pytest.raises(ValidationError, match="video_pixels is the platform's own"):
        ServiceConfig(**PATHS, limits={"video_pixels": 10})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "nothing to serve"),
        ({"bundle": "b", "table": "t"}, "go together: give index too"),
        ({"index": "i", "models": {"mood": "m"}}, "give bundle and table too"),
        ({**PATHS, "models": {"search": "m"}}, "choose another name"),
        ({**PATHS, "releases": "r"}, "leave bundle, table, index and models out"),
        ({"models": {"mood": "m"}, "shards": "deployed"}, "those of a catalogue"),
        ({**PATHS, "version_retention_days": 0}, "0.0 days is less than an hour, .*: give 0.05"),
        ({**PATHS, "version_retention_days": float("nan")}, "nan days is less than an hour"),
        ({**PATHS, "search_cpus": 2}, "set num_cpus of Model-search under `deployments:`"),
        (
            {**PATHS, "gateway_cpus": 1, "gateway_replicas": 2},
            "gateway_replicas, gateway_cpus: .* set num_replicas of Gateway and num_cpus of Gateway under",
        ),
        ({"models": {"a/b": "m"}}, "pattern"),
        ({"models": {"": "m"}}, "pattern"),
    ],
)
def test_config_rejects_inconsistent_options(config, said):
    with pytest.raises(ValidationError, match=said):
        ServiceConfig(**config)


@pytest.mark.parametrize(
    "config",
    [
        PATHS,
        {"models": {"mood": "m"}},
        {**PATHS, "models": {"mood": "m"}},
        {"releases": "r"},
        {**PATHS, "inference": "deployed"},
    ],
)
def test_config_accepts_search_models_or_releases(config):
    ServiceConfig(**config)


def test_level_weights_are_a_list_or_commas():
    for given in ([0.2, 0.8], "0.2,0.8", "0.2, .8"):
        assert SearchRequest.model_validate({"text": "a", "level_weights": given}).level_weights == [0.2, 0.8]
