"""Inner products of queries with a gallery, some queries at a time so that memory stays bounded."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

QUERIES_PER_CHUNK = 1024


@dataclass(frozen=True)
class SimilarityChunk:
    """Similarities of some queries with the whole gallery.

    Attributes:
        rows: which of the queries these are.
        similarity: `[Q, G]` inner products, −inf where a query meets itself.
        itself: indices `[M]`, `[M]` of those cells.
    """

    rows: slice
    similarity: Tensor
    itself: tuple[Tensor, Tensor]


def similarity_chunks(
    queries: Tensor, gallery: Tensor, same_row: Tensor | None = None, size: int = QUERIES_PER_CHUNK
) -> Iterator[SimilarityChunk]:
    """Yield the queries' similarities in order; one empty chunk where there are no queries.

    Args:
        queries: `[Q, D]` embeddings.
        gallery: `[G, D]` embeddings.
        same_row: `[Q]` gallery row that is the query itself and is excluded from its results; -1 for none.
        size: queries of a chunk.
    """
    for start in range(0, max(1, len(queries)), size):
        rows = slice(start, start + size)
        similarity_QG = queries[rows].float() @ gallery.float().T
        own = torch.full((len(similarity_QG),), -1, device=queries.device) if same_row is None else same_row[rows]
        excluded = (own >= 0).nonzero().squeeze(1)
        itself = excluded, own[excluded]
        similarity_QG[itself] = -torch.inf
        yield SimilarityChunk(rows, similarity_QG, itself)
