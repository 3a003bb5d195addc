"""The rows of `text_guided`: pictures with a product, a text, a source and a role."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from galleria.errors import DataError
from galleria.families.text_guided.config import TextGuidedConfig
from galleria.learn.encoders.config import TOKENIZER
from galleria.learn.encoders.tokens import has_known_token, tokenize, tokenizer_bytes
from galleria.learn.family import Context, Labels, index_by_name
from galleria.learn.gallery_rows import ROLES, gallery_columns
from galleria.learn.training.augmentation import picture_pixels
from galleria.learn.types import Row

__all__ = ["ROLES", "SCHEMA", "context", "example", "present"]

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


def present(outputs: Mapping[str, Any], _labels: Labels) -> Mapping[str, Any]:
    """Return the vector of the picture, or else of the text, as a list."""
    vector = outputs.get("embedding", outputs.get("text_embedding"))
    return {"embedding": np.asarray(vector).tolist()}
