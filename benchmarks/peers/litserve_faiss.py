"""LitServe over FAISS."""

import json
import sys
from pathlib import Path
from typing import Any

import faiss
import litserve  # type: ignore[import-not-found]
import numpy as np


class Search(litserve.LitAPI):  # type: ignore[misc]
    """One worker; a vector in, items out."""

    def __init__(self, folder: str) -> None:
        super().__init__(api_path="/search")
        self.folder = Path(folder)

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Open the index in the worker."""
        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(str(self.folder / "image.index"))
        self.titles = json.loads((self.folder / "titles.json").read_text())

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Return the vector and the number of hits."""
        return np.asarray([request["vector"]], np.float32), request["k"]

    def predict(self, query: Any) -> Any:
        """Search for the nearest items."""
        return self.index.search(*query)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return items with their titles."""
        scores, numbers = output
        pairs = zip(scores[0].tolist(), numbers[0].tolist(), strict=True)
        return {"hits": [{"id": f"i{number}", "score": score, "title": self.titles[number]} for score, number in pairs]}


if __name__ == "__main__":
    server = litserve.LitServer(Search(sys.argv[1]), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
