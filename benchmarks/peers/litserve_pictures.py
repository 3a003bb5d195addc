"""LitServe: pictures through the network of a bundle in eager PyTorch, in batches, and FAISS."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import faiss
import litserve  # type: ignore[import-not-found]

BATCH = 16


class Search(litserve.LitAPI):  # type: ignore[misc]
    """One worker; batches as large as ours, that wait as long as ours."""

    def __init__(self, folder: str, bundle: str) -> None:
        super().__init__(api_path="/search", max_batch_size=BATCH, batch_timeout=0.002)
        self.folder = Path(folder)
        self.path = bundle

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Open bundle and index in the worker."""
        from galleria.learn.bundle import Bundle

        faiss.omp_set_num_threads(1)
        self.bundle = Bundle.open(self.path)
        self.task = self.bundle.task()
        self.index = faiss.read_index(str(self.folder / "image.index"))
        self.titles = json.loads((self.folder / "titles.json").read_text())

    def decode_request(self, request: dict[str, Any]) -> Any:
        """The same example of the same bytes."""
        row = {"image": base64.b64decode(request["image"])}
        return self.bundle.family.example(row, self.bundle.context, None)

    def batch(self, inputs: list[Any]) -> Any:
        """Stacked as ours."""
        from galleria.learn.examples import stack

        return stack(inputs)

    def predict(self, batch: Any) -> Any:
        """Vectors, and the nearest of each."""
        return self.index.search(self.task.predict(batch)["embedding"].numpy(), 10)

    def unbatch(self, output: Any) -> Any:
        """One for each picture."""
        return list(zip(*output, strict=True))

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Items with their titles."""
        found = zip(output[0].tolist(), output[1].tolist(), strict=True)
        return {"hits": [{"id": f"i{place}", "score": score, "title": self.titles[place]} for score, place in found]}


if __name__ == "__main__":
    server = litserve.LitServer(Search(sys.argv[1], sys.argv[3]), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
