"""What a row of product data is to `text_guided`: pictures with a product, a text, a source and a role."""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from galleria.errors import DataError
from galleria.families.text_guided.task import TextGuidedConfig
from galleria.learn.augmentation import augment
from galleria.learn.family import Context, Labels
from galleria.learn.metrics import Retrieval, Score, bootstrap, retrieval
from galleria.learn.task import Batch, Outputs, Row
from galleria.learn.text_encoder import TOKENIZER, tokenize, tokenizer_bytes
from galleria.media.images import decode_image, fit_square, to_pixels

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"about": "unique name of the picture"}),
        pa.field("image", pa.binary(), nullable=False, metadata={"about": "the encoded picture"}),
        pa.field("product_id", pa.string(), nullable=False, metadata={"about": "pictures of one product share it"}),
        pa.field("text", pa.string(), metadata={"about": "describes the product"}),
        pa.field("source", pa.string(), metadata={"about": "where the picture is from; scored apart"}),
        pa.field("role", pa.string(), metadata={"about": "'query' or 'gallery'; empty is both"}),
    ]
)
ROLES = ("both", "query", "gallery")


def context(config: TextGuidedConfig, rows: Iterable[Row]) -> Context[TextGuidedConfig]:
    """Training products and sources as labels, the tokenizer as a file."""
    products, sources, texts = set(), set(), set()
    for row in rows:
        products.add(row["product_id"])
        sources.add(row.get("source") or "")
        texts.add(row.get("text") or "")
    files = {TOKENIZER: tokenizer_bytes(config.text, sorted(texts))} if config.text else {}
    labels = {"product": tuple(sorted(products)), "source": tuple(sorted(sources))}
    return Context(config.model_copy(update={"classes": len(products)}), labels, files)


def example(row: Row, context: Context[TextGuidedConfig], generator: np.random.Generator | None) -> Row:
    """Arrays of whatever the row has.

    `pixels` uint8 `[3, S, S]`; `tokens` and `token_mask` int64 `[T]` (all zero for a missing text); `product`
    a 63-bit key that is equal for equal products; `label` the training class or -1; `source` an index or -1;
    `role` an index into `ROLES`.

    Raises:
        DataError: the picture cannot be read, or the role is unknown.
    """
    config = context.config
    made: dict[str, Any] = {}
    if "image" in row:
        image = decode_image(row["image"] or b"")
        if generator is not None:
            image = augment(fit_square(image, config.size), config.augmentation, generator)
        made["pixels"] = to_pixels(image, config.size)
    if "text" in row and config.text is not None:
        ids, mask = tokenize([row["text"] or ""], context.files[TOKENIZER], config.text.tokens)
        made["tokens"], made["token_mask"] = ids[0], mask[0] * bool(row["text"])
    if "product_id" in row:
        made["product"] = _key(row["product_id"])
        made["label"] = np.int64(_places(context.labels["product"]).get(row["product_id"], -1))
        made["source"] = np.int64(_places(context.labels["source"]).get(row.get("source") or "", -1))
        role = row.get("role") or "both"
        if role not in ROLES:
            raise DataError(f"role {role!r} is unknown: use 'query', 'gallery', or leave it empty for both")
        made["role"] = np.int64(ROLES.index(role))
    return made


def evaluate(pairs: Iterable[tuple[Batch, Outputs]], labels: Labels) -> Mapping[str, Score]:
    """R@1, R@5, R@10 and mAP@R of the queries against the gallery, over all and for each source.

    With a text tower also "text/…": every distinct query product's text against the same pictures.
    """
    columns: dict[str, list[torch.Tensor]] = {}
    for batch, outputs in pairs:
        for name in ("product", "source", "role"):
            columns.setdefault(name, []).append(batch[name])
        everything = torch.ones_like(batch["role"], dtype=torch.bool)
        columns.setdefault("evaluated", []).append(batch.get("evaluated", everything))
        for name, value in outputs.items():
            columns.setdefault(name, []).append(value)
        if "token_mask" in batch:
            columns.setdefault("told", []).append(batch["token_mask"].any(1))
    if not columns:
        return {}
    table = {name: torch.cat(parts).cpu() for name, parts in columns.items()}
    asks = table["evaluated"] & (table["role"] != ROLES.index("gallery"))
    shown = table["role"] != ROLES.index("query")
    place = torch.where(shown, shown.cumsum(0) - 1, -1)
    gallery, keys = table["embedding"][shown], table["product"][shown]
    found = retrieval(table["embedding"][asks], table["product"][asks], gallery, keys, same_row=place[asks])
    scores = _scores("", found)
    sources = table["source"][asks].numpy()
    for index, name in enumerate(labels["source"]):
        if name and (sources == index).any():
            scores |= _scores(f"{name}/", found, sources == index)
    if "text_embedding" in table:
        rows = _first_of_each(table["product"], asks & table["told"])
        scores |= _scores("text/", retrieval(table["text_embedding"][rows], table["product"][rows], gallery, keys))
    return scores


def present(outputs: Mapping[str, Any], _labels: Labels) -> Mapping[str, Any]:
    """The vector of the picture, or else of the text, as a list."""
    vector = outputs.get("embedding", outputs.get("text_embedding"))
    return {"embedding": np.asarray(vector).tolist()}


def _scores(prefix: str, found: Retrieval, rows: NDArray[np.bool_] | slice = slice(None)) -> dict[str, Score]:
    return {prefix + name: bootstrap(values[rows]) for name, values in found.values.items()}


def _first_of_each(keys: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Index of the first wanted row of every key."""
    rows = wanted.nonzero().squeeze(1)
    _, first = np.unique(keys[rows].numpy(), return_index=True)
    return rows[torch.from_numpy(np.sort(first))]


def _key(product: str) -> np.int64:
    digest = hashlib.blake2b(product.encode(), digest_size=8).digest()
    return np.int64(int.from_bytes(digest, "big") >> 1)


@functools.lru_cache(maxsize=8)
def _places(names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: place for place, name in enumerate(names)}
