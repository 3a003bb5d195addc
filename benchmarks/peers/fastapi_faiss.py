"""FastAPI, uvicorn and FAISS in one process, and nothing else: the lower bound of a search over HTTP."""

import json
import sys
from pathlib import Path

import faiss
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Query(BaseModel):
    """A vector, and the number of hits."""

    vector: list[float]
    k: int = 10


class Hit(BaseModel):
    """An item."""

    id: str
    score: float
    title: str


class Hits(BaseModel):
    """The nearest items, best first."""

    hits: list[Hit]


def make_app(folder: Path) -> FastAPI:
    """Return a service over an index, and titles in memory."""
    faiss.omp_set_num_threads(1)
    index = faiss.read_index(str(folder / "image.index"))
    titles = json.loads((folder / "titles.json").read_text())
    app = FastAPI()

    @app.post("/search")
    async def search(query: Query) -> Hits:
        """Return the nearest items."""
        scores, numbers = index.search(np.asarray([query.vector], np.float32), query.k)
        pairs = zip(scores[0].tolist(), numbers[0].tolist(), strict=True)
        return Hits(hits=[Hit(id=f"i{number}", score=score, title=titles[number]) for score, number in pairs])

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
