"""Searches a running service by words and by picture, and writes an item.

    galleria serve … --writable
    python examples/search_over_http.py http://127.0.0.1:8000 shoe.jpg

Needs httpx. With keys, add `headers={"Authorization": "Bearer …"}` to the client.
"""

import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx


def main(address: str, picture: Path) -> None:
    """Send one request of each kind and print the responses."""
    with httpx.Client(base_url=address, timeout=60) as client:
        by_words = client.post("/v1/search", json={"text": "red shoe", "k": 3}).raise_for_status().json()
        show("by words", by_words)

        form = {"k": "3", "filter": '{"category": {"$prefix": ["things"]}}'}
        by_picture = client.post("/v1/search", data=form, files={"image": picture.read_bytes()})
        show("by picture", by_picture.raise_for_status().json())

        item = {"id": "example-1", "image": base64.b64encode(picture.read_bytes()).decode(), "title": "An example"}
        written = client.put("/v1/items", json={"items": [item]}).raise_for_status().json()
        print("written:", written["items"][0]["status"], "in version", written["version"])

        # A search with `min_version` sees this write.
        query = {"item": "example-1", "k": 3, "min_version": written["version"]}
        show("more like it", client.post("/v1/search", json=query).raise_for_status().json())
        client.delete("/v1/items/example-1").raise_for_status()

        # Errors are problem+json: they name the field and the fix.
        problem = client.post("/v1/search", json={"text": "red shoe", "k": 0}).json()
        print("problem:", problem["status"], problem["detail"])


def show(title: str, response: Mapping[str, Any]) -> None:
    """Print the hits of a search."""
    print(f"{title}, {response['latency_ms']:.0f} ms:")
    for hit in response["hits"]:
        print(f"  {hit['score']:.3f}  {hit['id']}  {hit['item']['title']}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
