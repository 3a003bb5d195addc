"""The rows of `text_guided`: pictures with a product, a text, a source and a role."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from galleria.errors import DataError
from galleria.families.text_guided.task import TextGuidedConfig
from galleria.learn.encoders.text import TOKENIZER, has_known_token, tokenize, tokenizer_bytes
from galleria.learn.family import Context, Labels, index_by_name
from galleria.learn.gallery import ROLES, gallery_columns, ranked_columns, scores_by_source, sides
from galleria.learn.metrics.open_set import no_match
from galleria.learn.metrics.retrieval import retrieval
from galleria.learn.metrics.score import Score, bootstrap
from galleria.learn.task import Batch, Outputs, Row
from galleria.learn.training.augmentation import picture_pixels

__all__ = ["ROLES", "SCHEMA", "context", "evaluate", "example", "present"]

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"about": "unique name of the picture"}),
        pa.field("image", pa.binary(), nullable=False, metadata={"about": "the encoded picture"}),
        pa.field("product_id", pa.string(), nullable=False, metadata={"about": "pictures of one product share it"}),
        pa.field("text", pa.string(), metadata={"about": "describes the product"}),
        pa.field("source", pa.string(), metadata={"about": "where the picture is from; scored separately"}),
        pa.field("role", pa.string(), metadata={"about": "'query' or 'gallery'; empty is both"}),
    ]
)


def context(config: TextGuidedConfig, rows: Iterable[Row]) -> Context[TextGuidedConfig]:
    """Take labels from training products and sources, and the tokenizer as a file."""
    products, sources, texts = set(), set(), set()
    for row in rows:
        products.add(row["product_id"])
        sources.add(row.get("source") or "")
        texts.add(row.get("text") or "")
    files = {TOKENIZER: tokenizer_bytes(config.text, sorted(texts))} if config.text else {}
    labels = {"product": tuple(sorted(products)), "source": tuple(sorted(sources))}
    return Context(config.model_copy(update={"classes": len(products)}), labels, files)


def example(row: Row, context: Context[TextGuidedConfig], generator: np.random.Generator | None) -> Row:
    """Make arrays of the columns that the row has.

    `pixels` uint8 `[3, S, S]`; `tokens` and `token_mask` int64 `[T]` (all zero for a missing text); `product`
    a 63-bit key that is equal for equal products; `label` the training class or -1; `source` an index or -1;
    `role` an index into `ROLES`.

    Raises:
        DataError: the picture cannot be read, the role is unknown, or a text without a picture has no known word.
    """
    config = context.config
    arrays: dict[str, Any] = {}
    if "image" in row:
        arrays["pixels"] = picture_pixels(row["image"], config.size, config.augmentation, generator)
    if "text" in row and config.text is not None:
        tokenizer, text = context.files[TOKENIZER], row["text"] or ""
        if text and "image" not in row and not has_known_token(text, tokenizer, config.text.tokens):
            raise DataError(f"the model knows no word of {text[:50]!r}: use other words")
        ids, mask = tokenize([text], tokenizer, config.text.tokens)
        arrays["tokens"], arrays["token_mask"] = ids[0], mask[0] * bool(row["text"])
    if "product_id" in row:
        arrays |= gallery_columns(row, context.labels)
        arrays["label"] = np.int64(index_by_name(context.labels["product"]).get(row["product_id"], -1))
    return arrays


def evaluate(pairs: Iterable[tuple[Batch, Outputs]], labels: Labels) -> Mapping[str, Score]:
    """Score R@1, R@5, R@10 and mAP@R of the queries against the gallery, over all and for each source, and `no_match`.

    With a text tower also "text/…": every distinct query product's text against the same pictures.
    """
    table = ranked_columns(pairs, ("product", "source", "role", "token_mask"))
    if not table:
        return {}
    side = sides(table)
    vectors, products = table["embedding"], table["product"]
    queries, query_products = vectors[side.queries], products[side.queries]
    gallery, gallery_products = vectors[side.gallery], products[side.gallery]
    ranking = retrieval(queries, query_products, gallery, gallery_products, same_row=side.same_row)
    scores = scores_by_source(ranking.values, table["source"][side.queries], labels["source"])
    scores |= no_match(queries, query_products, gallery, gallery_products, side.same_row)
    if "text_embedding" in table:
        rows = _first_of_each(products, side.queries & table["token_mask"].any(1))
        texts, text_products = table["text_embedding"][rows], products[rows]
        ranking = retrieval(texts, text_products, gallery, gallery_products)
        scores |= {f"text/{metric}": bootstrap(values) for metric, values in ranking.values.items()}
        unmatched = no_match(texts, text_products, gallery, gallery_products)
        scores |= {f"text/{metric}": score for metric, score in unmatched.items()}
    return scores


def present(outputs: Mapping[str, Any], _labels: Labels) -> Mapping[str, Any]:
    """Return the vector of the picture, or else of the text, as a list."""
    vector = outputs.get("embedding", outputs.get("text_embedding"))
    return {"embedding": np.asarray(vector).tolist()}


def _first_of_each(keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the index of the first row of every key within the mask."""
    rows = mask.nonzero().squeeze(1)
    _, first = np.unique(keys[rows].numpy(), return_index=True)
    return rows[torch.from_numpy(np.sort(first))]
