"""Trains on your own table, evaluates, embeds, indexes and searches, by the functions that the commands call.

    python examples/train_on_your_table.py products.parquet runs/mine

The table has the columns `id`, `product_id`, `image` and `split`; `galleria data demo` writes one.
"""

import sys
from pathlib import Path

from galleria import load_recipe
from galleria.pipelines.build_index import build_index
from galleria.pipelines.datasets import Source
from galleria.pipelines.embed import embed
from galleria.pipelines.evaluate import evaluate
from galleria.pipelines.search import search
from galleria.pipelines.train import train


def main(data: str, out: Path) -> None:
    """Write a bundle, a product table and an index to `out`, and search once."""
    recipe = load_recipe("text_guided", "debug")  # "paper" for results; recipes.py lists them
    source = Source(data)  # Source(data, columns={"product_id": "sku"}) if yours have other names

    trained = train(recipe, source, out)
    for name, score in evaluate(trained.bundle, source).items():
        print(f"{name}: {score.value:.3f} ({score.low:.3f} – {score.high:.3f})")

    table, rejects = embed(trained.bundle, source, out / "table.lance")
    build_index(table, out / "index")
    print(f"{table.version=}, {len(rejects)} rows rejected")

    for hit in search({"text": "red shoe"}, 3, trained.bundle.path, out / "table.lance", out / "index"):
        print(hit["id"], hit["title"], f"{hit['score']:.3f}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
