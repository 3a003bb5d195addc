"""Asks the running service, and compares its answers with the models' own."""

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

HITS = 10
WORDS = "a red fruit"
TOLERANCE = 1e-4


def check_searches(address: str, name: str, source: Source, arguments: ServiceConfig) -> dict[str, bool]:
    """Searches for pictures; for words, and with weighted levels, where the model has such.

    Raises:
        GalleriaError: an answer is not what the model itself answers.
    """
    rows = pq.read_table(source.path, columns=["id", "image", "source", "split"])
    test = rows.filter(pc.equal(rows["split"], "test"))
    shown = test.filter(pc.equal(test["source"], "noto")).slice(0, 1).to_pylist()[0]
    asked = test.filter(pc.equal(test["source"], "twemoji")).slice(0, 1).to_pylist()[0]
    itself = _ask(f"{address}/v1/search", {"image": shown["image"], "k": HITS})["hits"][0]
    new = _ask(f"{address}/v1/search", {"image": asked["image"], "k": HITS})
    checks = {
        "a picture of the catalogue finds itself": itself["id"] == shown["id"] and itself["score"] > 0.999,
        "a new picture is answered as the model answers": _same_hits(new, {"image": asked["image"]}, arguments),
    }
    [model] = [model for model in _get(f"{address}/v1/models")["models"] if model["kind"] == "search"]
    if "text" in model["inputs"]:
        served = _ask(f"{address}/v1/search", {"text": WORDS, "k": HITS})
        checks["words are answered as the model answers"] = _same_hits(served, {"text": WORDS}, arguments)
    if model["levels"]:
        query = {"image": asked["image"], "level_weights": [1.0] + [0.0] * (model["levels"] - 1)}
        served = _ask(f"{address}/v1/search", {**query, "k": HITS})
        checks["weighted levels are answered as the model answers"] = _same_hits(served, query, arguments)
    return _passed(address, {f"{name}: {check}": passed for check, passed in checks.items()})


def check_answers(address: str, bundles: Mapping[str, Bundle], sources: Mapping[str, Source]) -> dict[str, bool]:
    """A picture or a video of the test split for every model that answers for itself.

    Raises:
        GalleriaError: an answer is not what the model itself answers.
    """
    checks = {}
    for name, bundle in bundles.items():
        media, route = ("video", "events") if "video" in bundle.family.schema.names else ("image", "classify")
        rows = pq.read_table(sources[name].path, columns=[media, "split"])
        value = rows.filter(pc.equal(rows["split"], "test"))[media][0].as_py()
        query = {media: Path(value).read_bytes() if isinstance(value, str) else value}
        served = _ask(f"{address}/v1/{route}/{name}", query)["result"]
        checks[f"{name}: answered as the model answers"] = _agree(served, predict_one(bundle, query))
    return _passed(address, checks)


def _passed(address: str, checks: dict[str, bool]) -> dict[str, bool]:
    failed = [name for name, passed in checks.items() if not passed]
    if failed:
        raise GalleriaError(f"the service at {address} did not pass: {'; '.join(failed)}")
    return checks


def _ask(address: str, query: Mapping[str, Any]) -> dict[str, Any]:
    plain = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in query.items()
    }
    return _get(urllib.request.Request(address, json.dumps(plain).encode(), {"content-type": "application/json"}))


def _get(request: str | urllib.request.Request) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            found: dict[str, Any] = json.load(reply)
            return found
    except urllib.error.HTTPError as error:
        raise GalleriaError(f"{error.url} answered {error.code}: {error.read().decode(errors='replace')}") from error


def _same_hits(served: Mapping[str, Any], query: Mapping[str, Any], arguments: ServiceConfig) -> bool:
    """The same scores in the same order; ids may change places only where scores tie."""
    own = search(query, HITS, Path(arguments.bundle), Path(arguments.table), Path(arguments.index))
    return len(own) == HITS and _agree([hit["score"] for hit in served["hits"]], [hit["score"] for hit in own])


def _agree(served: Any, own: Any) -> bool:
    """Equal but for float noise, whatever the shape."""
    if isinstance(own, Mapping):
        return served.keys() == own.keys() and all(_agree(served[name], value) for name, value in own.items())
    if isinstance(own, list | tuple):
        return len(served) == len(own) and all(_agree(one, other) for one, other in zip(served, own, strict=True))
    if isinstance(own, float):
        return math.isclose(served, own, abs_tol=TOLERANCE)
    return bool(served == own)
