import base64

import pytest
from pydantic import ValidationError

from galleria.media.limits import LIMITS
from galleria.serving.schemas import SearchQuery, ServiceArguments

PLACES = {"bundle": "b", "table": "t", "index": "i"}


def test_an_image_is_base64_or_a_data_uri_in_json_and_bytes_in_a_form():
    encoded = base64.b64encode(b"\x89PNG\xff").decode()
    for value in (encoded, f"data:image/png;base64,{encoded}"):
        assert SearchQuery.model_validate_json(f'{{"image": "{value}"}}').image == b"\x89PNG\xff"
    assert SearchQuery.model_validate({"image": b"\x89PNG\xff"}).image == b"\x89PNG\xff"


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ('{"image": "not base64!"}', "image", "base64"),
        ('{"image": 5}', "image", "bytes"),
        ('{"text": "  "}', "text", "empty"),
        ('{"vector": []}', "vector", "at least 1"),
        ('{"vector": [1, NaN]}', "vector", "finite"),
        ('{"vector": [1, "x"]}', "vector", "number"),
        ('{"text": "a", "k": 0}', "k", "greater than or equal to 1"),
        ('{"text": "a", "k": 1.5}', "k", "integer"),
        ('{"text": "a", "limit": 3}', "limit", "not permitted"),
    ],
)
def test_a_wrong_field_is_named(body, field, said):
    with pytest.raises(ValidationError) as error:
        SearchQuery.model_validate_json(body)
    assert error.value.errors()[0]["loc"][0] == field
    assert said in error.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("body", "given"),
    [("{}", "none"), ('{"text": "a", "vector": [1]}', "text and vector"), ('{"image": null}', "none")],
)
def test_a_search_is_by_exactly_one_thing(body, given):
    with pytest.raises(ValidationError, match=f"exactly one of image, text and vector, not {given}"):
        SearchQuery.model_validate_json(body)


def test_a_misspelt_argument_is_refused():
    with pytest.raises(ValidationError, match="bundel"):
        ServiceArguments(**PLACES, bundel="x")


def test_limits_that_decoding_would_not_keep_are_refused():
    assert ServiceArguments(**PLACES, limits={"image_bytes": 10}).limits.image_bytes == 10
    with pytest.raises(ValidationError, match="image_bytes can be lowered, but not raised over 20,000,000"):
        ServiceArguments(**PLACES, limits={"image_bytes": LIMITS.image_bytes + 1})
