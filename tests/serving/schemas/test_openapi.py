"""The API reference is correct: what it allows and forbids is requested, and answered as it says."""

import json
import os
import warnings
from collections import Counter

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from galleria.serving.config import SEARCH
from galleria.serving.http.application import ROUTERS
from tests.serving.conftest import ask, local_app

CASES = 40 * int(os.environ.get("GALLERIA_SOAK", "1"))
"""Cases of every operation that has parameters or a body."""

CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]


@pytest.fixture(scope="module")
def app(writable, bundle, models):
    config = writable.model_copy(
        update={"version_timeout_s": 0.01, "models": {name: str(model.path) for name, model in models.items()}}
    )
    return local_app(config, {SEARCH: bundle, **models})


def test_reference_has_every_schema(app):
    text = ask(app, "GET", "/openapi.json").text
    reference = json.loads(text)
    for part in text.split('"$ref":"')[1:]:
        *folders, name = part.partition('"')[0].removeprefix("#/").split("/")
        node = reference
        for folder in folders:
            node = node[folder]
        assert name in node


def test_request_body_has_an_example(app):
    for path, methods in ask(app, "GET", "/openapi.json").json()["paths"].items():
        for method, described in methods.items():
            for kind, content in described.get("requestBody", {}).get("content", {}).items():
                if kind == "application/json":
                    assert {"example", "examples"} & set(content), (method, path)


def test_response_example_is_valid(app):
    from fastapi.routing import APIRoute
    from pydantic import BaseModel

    reference = ask(app, "GET", "/openapi.json").json()["paths"]
    for route in (route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)):
        if not route.include_in_schema:
            continue
        for method in route.methods:
            content = reference[route.path][method.lower()]["responses"]["200"]["content"]
            if "application/json" not in content:
                assert route.path in ("/metrics", "/v1/items/{item_id}/image")
                continue
            example = content["application/json"]["example"]
            if isinstance(route.response_model, type) and issubclass(route.response_model, BaseModel):
                whole = route.response_model.model_validate(example, strict=True).model_dump(exclude_unset=True)
                assert whole == example, "and it has no field that answers do not have"


@pytest.mark.slow
def test_responses_conform_to_the_reference(app):
    """I9: random requests are answered as the reference says."""
    seen: Counter[int] = Counter()
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(
            max_examples=CASES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def answers(case):
            answer = case.call(base_url="http://127.0.0.1")
            seen[answer.status_code] += 1
            if answer.status_code != 503:
                case.validate_response(answer, checks=[not_a_server_error])
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == ["application/problem+json"]
            case.validate_response(answer, checks=CHECKS)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers()
    assert seen.total() > 10 * CASES
    assert {200, 404, 422} <= set(seen), seen
