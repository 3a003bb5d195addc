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
    """One worker, with the batch size and the batch timeout of our service."""

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
        """Decode an image as our service does."""
        row = {"image": base64.b64decode(request["image"])}
        return self.bundle.family.example(row, self.bundle.context, None)

    def batch(self, inputs: list[Any]) -> Any:
        """Stack examples as our service does."""
        from galleria.learn.examples import stack

        return stack(inputs)

    def predict(self, batch: Any) -> Any:
        """Embed the images, and search for the nearest items of each."""
        return self.index.search(self.task.predict(batch)["embedding"].numpy(), 10)

    def unbatch(self, output: Any) -> Any:
        """Split the hits by image."""
        return list(zip(*output, strict=True))

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return items with their titles."""
        pairs = zip(output[0].tolist(), output[1].tolist(), strict=True)
        return {"hits": [{"id": f"i{number}", "score": score, "title": self.titles[number]} for score, number in pairs]}


if __name__ == "__main__":
    server = litserve.LitServer(Search(sys.argv[1], sys.argv[3]), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
