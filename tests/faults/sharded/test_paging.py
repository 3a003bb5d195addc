"""Pages behind a cursor over the shards of a deployed service."""

import httpx
import pytest

from tests.faults.sharded.conftest import SHARDS, Service

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_pages_equal_one_long_page(service: Service, client: httpx.Client) -> None:
    query = {"vector": service.vectors[0].tolist(), "k": len(service.ids)}
    expected = client.post("/v1/search", json=query).json()["hits"]
    hits, after = [], None
    while len(hits) < len(service.ids):
        response = client.post("/v1/search", json=query | {"k": 5, "after": after}).json()
        assert response["shards"] == {"total": SHARDS, "searched": SHARDS}
        hits += response["hits"]
        after = response["next"]

    assert hits == expected
    assert {hit["id"] for hit in hits} == set(service.ids)
