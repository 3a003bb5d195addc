"""Asks the running service with a picture and with words, and compares its answers with the model's own."""

import base64
import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from galleria.errors import GalleriaError
from galleria.pipelines.datasets import Source
from galleria.pipelines.search import search
from galleria.serving.schemas import ServiceArguments

HITS = 10
WORDS = "a red fruit"


def check_service(address: str, source: Source, arguments: ServiceArguments) -> dict[str, bool]:
    """The checks that passed, by name.

    Raises:
        GalleriaError: an answer is not what the model itself answers.
    """
    rows = pq.read_table(source.path, columns=["id", "image", "source", "split"])
    test = rows.filter(pc.equal(rows["split"], "test"))
    shown = test.filter(pc.equal(test["source"], "noto")).slice(0, 1).to_pylist()[0]
    asked = test.filter(pc.equal(test["source"], "twemoji")).slice(0, 1).to_pylist()[0]
    itself = _ask(address, {"image": base64.b64encode(shown["image"]).decode(), "k": HITS})[0]
    checks = {
        "a picture of the catalogue finds itself": itself["id"] == shown["id"] and itself["score"] > 0.999,
        "a new picture is answered as the model answers": _agree(
            _ask(address, {"image": base64.b64encode(asked["image"]).decode(), "k": HITS}),
            _own({"image": asked["image"]}, arguments),
        ),
        "words are answered as the model answers": _agree(
            _ask(address, {"text": WORDS, "k": HITS}), _own({"text": WORDS}, arguments)
        ),
    }
    failed = [name for name, passed in checks.items() if not passed]
    if failed:
        raise GalleriaError(f"the service at {address} did not pass: {'; '.join(failed)}")
    return checks


def _ask(address: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{address}/v1/search", json.dumps(query).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        hits: list[dict[str, Any]] = json.load(answer)["hits"]
        return hits


def _own(query: Mapping[str, Any], arguments: ServiceArguments) -> list[Mapping[str, Any]]:
    return search(query, HITS, Path(arguments.bundle), Path(arguments.table), Path(arguments.index))


def _agree(served: list[dict[str, Any]], own: list[Mapping[str, Any]]) -> bool:
    """The same scores in the same order; ids may change places only where scores tie."""
    same = len(served) == len(own) == HITS
    return same and all(abs(one["score"] - other["score"]) < 1e-4 for one, other in zip(served, own, strict=True))
