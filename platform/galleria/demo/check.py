"""Queries the running service, and compares its responses with the models' own results."""

import base64
import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from galleria.errors import GalleriaError
from galleria.learn.bundle import Bundle
from galleria.pipelines.datasets import Source
from galleria.pipelines.predict_one import predict_one
from galleria.pipelines.search import search
from galleria.serving.config import ServiceConfig

K = 10
TEXT = "a red fruit"
TOLERANCE = 1e-4


def check_searches(address: str, name: str, source: Source, config: ServiceConfig) -> dict[str, bool]:
    """Search by image, and by text and with level weights where the model has them.

    Raises:
        GalleriaError: a response differs from the model's own result.
    """
    rows = pq.read_table(source.path, columns=["id", "image", "source", "split"])
    test = rows.filter(pc.equal(rows["split"], "test"))
    gallery = test.filter(pc.equal(test["source"], "noto")).slice(0, 1).to_pylist()[0]
    query = test.filter(pc.equal(test["source"], "twemoji")).slice(0, 1).to_pylist()[0]
    first = _post(f"{address}/v1/search", {"image": gallery["image"], "k": K})["hits"][0]
    image = {"image": query["image"]}
    response = _post(f"{address}/v1/search", {**image, "k": K})
    checks = {
        "a catalogue image finds itself": first["id"] == gallery["id"] and first["score"] > 0.999,
        "a new image gives the model's own hits": _same_hits(response, image, config),
    }
    [model] = [model for model in _get(f"{address}/v1/models")["models"] if model["kind"] == "search"]
    if "text" in model["inputs"]:
        response = _post(f"{address}/v1/search", {"text": TEXT, "k": K})
        checks["text gives the model's own hits"] = _same_hits(response, {"text": TEXT}, config)
    if model["levels"]:
        weighted = {**image, "level_weights": [1.0] + [0.0] * (model["levels"] - 1)}
        response = _post(f"{address}/v1/search", {**weighted, "k": K})
        checks["level weights give the model's own hits"] = _same_hits(response, weighted, config)
    return _require_passed(address, {f"{name}: {check}": passed for check, passed in checks.items()})


def check_predictions(address: str, bundles: Mapping[str, Bundle], sources: Mapping[str, Source]) -> dict[str, bool]:
    """Classify an image or a video of the test split with every model of `bundles`.

    Raises:
        GalleriaError: a response differs from the model's own result.
    """
    checks = {}
    for name, bundle in bundles.items():
        media, route = ("video", "events") if "video" in bundle.family.schema.names else ("image", "classify")
        rows = pq.read_table(sources[name].path, columns=[media, "split"])
        value = rows.filter(pc.equal(rows["split"], "test"))[media][0].as_py()
        query = {media: Path(value).read_bytes() if isinstance(value, str) else value}
        served = _post(f"{address}/v1/{route}/{name}", query)["result"]
        checks[f"{name}: gives the model's own result"] = _agree(served, predict_one(bundle, query))
    return _require_passed(address, checks)


def _require_passed(address: str, checks: dict[str, bool]) -> dict[str, bool]:
    failed = [name for name, passed in checks.items() if not passed]
    if failed:
        raise GalleriaError(f"the service at {address} failed these checks: {'; '.join(failed)}")
    return checks


def _post(address: str, query: Mapping[str, Any]) -> dict[str, Any]:
    body = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in query.items()
    }
    return _get(urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"}))


def _get(request: str | urllib.request.Request) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            body: dict[str, Any] = json.load(response)
            return body
    except urllib.error.HTTPError as error:
        raise GalleriaError(f"{error.url} responded {error.code}: {error.read().decode(errors='replace')}") from error


def _same_hits(served: Mapping[str, Any], query: Mapping[str, Any], config: ServiceConfig) -> bool:
    """Whether the scores are the same in the same order; the order of ids may differ only where scores tie."""
    own = search(query, K, Path(config.bundle), Path(config.table), Path(config.index))
    return len(own) == K and _agree([hit["score"] for hit in served["hits"]], [hit["score"] for hit in own])


def _agree(served: Any, own: Any) -> bool:
    """Whether two JSON values are equal up to float noise."""
    if isinstance(own, Mapping):
        return served.keys() == own.keys() and all(_agree(served[name], value) for name, value in own.items())
    if isinstance(own, list | tuple):
        return len(served) == len(own) and all(map(_agree, served, own))
    if isinstance(own, float):
        return math.isclose(served, own, abs_tol=TOLERANCE)
    return bool(served == own)
