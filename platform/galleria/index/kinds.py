"""Chooses and builds the FAISS index of a shard, by its size, memory limit and target recall.

Kinds from the fastest at its size to the smallest: "Flat" scans exactly, "HNSW32" walks a graph (Malkov and Yashunin
2016), "IVF,Flat" scans the lists nearest to the query, "IVF,SQ8" the same with one byte a value, "IVF,PQ" with a few
bits a value (Jégou et al. 2011).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from galleria.errors import ConfigurationError
from galleria.learn.recipe import Frozen

Kind = Literal["Flat", "HNSW32", "IVF,Flat", "IVF,SQ8", "IVF,PQ"]
KINDS: tuple[Kind, ...] = ("Flat", "HNSW32", "IVF,Flat", "IVF,SQ8", "IVF,PQ")

EXACT_BELOW = 10_000
"""Number of vectors below which an exact scan is fast enough."""

LINKS = 32
"""Neighbours of a vector in the graph (M of HNSW)."""

CONSTRUCTION_BREADTH = 80
"""Candidates when a vector is added to the graph (efConstruction of HNSW)."""

EFFORTS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 384, 512)
"""Candidates of a graph's search (efSearch) or lists scanned (nprobe): the lowest that reaches the recall is used."""

MAX_RECALL_QUERIES = 1000
"""Vectors that recall is measured with before they are added: queries that are in the index are easier."""

NEIGHBOURS = 10
TRAINING_VECTORS_A_LIST = 64

CENTRES = 256
"""Centroids of a byte of a product-quantised vector; learning them takes at least as many vectors."""

EQUAL_SIMILARITY = 1e-6
"""Similarities that differ by less count as equal."""

_CLASSES: Mapping[Kind, tuple[type, ...]] = {
    "Flat": (faiss.IndexFlat, faiss.IndexFlatIP),
    "HNSW32": (faiss.IndexHNSWFlat,),
    "IVF,Flat": (faiss.IndexIVFFlat,),
    "IVF,SQ8": (faiss.IndexIVFScalarQuantizer,),
    "IVF,PQ": (faiss.IndexIVFPQ,),
}


class Plan(Frozen):
    """Requirements for an index.

    Attributes:
        kind: one of `KINDS`, or "auto".
        target_recall: recall@10 that its search must reach on a sample, against an exact scan.
        memory: maximum bytes, or None.
    """

    kind: Kind | Literal["auto"] = "auto"
    target_recall: float = Field(0.99, gt=0, le=1)
    memory: NonNegativeInt | None = None


class IndexSpec(Frozen):
    """Kind of an index that was built, and why. Stored in the manifest.

    Attributes:
        kind: one of `KINDS`.
        effort: candidates (HNSW) or lists (IVF) of one search; 0 for a scan.
        recall: measured recall@10, 1 for a scan; of equally near vectors any counts.
        bytes: estimated memory of the index.
        reason: in words.
    """

    kind: Kind
    effort: NonNegativeInt
    recall: float
    bytes: int
    reason: str


def build(vectors: NDArray[np.float32], plan: Plan) -> tuple[Any, IndexSpec]:
    """Build an index over unit vectors `[N, D]` with the inner product; return it with its spec.

    Recall is measured with the last vectors: they must be in random order, as by hashed keys.

    Raises:
        ConfigurationError: even the smallest kind exceeds the memory limit.
    """
    count, dimension = vectors.shape
    fitting = [kind for kind in KINDS if plan.memory is None or size(kind, count, dimension) <= plan.memory]
    kind, reason = (plan.kind, "requested") if plan.kind != "auto" else _choose(fitting, count, dimension, plan.memory)
    if count == 0:
        kind, reason = "Flat", "there are no vectors"
    if kind not in fitting:
        raise ConfigurationError(
            f"a {kind} index of {count:,} × {dimension} needs {size(kind, count, dimension):,} bytes, "
            f"{plan.memory:,} are allowed: raise --max-index-memory or choose a smaller kind"
        )
    index = _train(kind, vectors)
    effort, recall = 0, 1.0
    first = count if kind == "Flat" else count - min(MAX_RECALL_QUERIES, count // 10)
    index.add(vectors[:first])
    if kind != "Flat":
        queries = vectors[first:] if first < count else vectors
        effort, recall = _tune(index, kind, vectors[:first], queries, plan.target_recall)
    index.add(vectors[first:])
    if recall < plan.target_recall:
        reason += f"; recall@10 {recall:.3f} is below the target of {plan.target_recall}: allow more memory"
    return index, IndexSpec(kind=kind, effort=effort, recall=recall, bytes=size(kind, count, dimension), reason=reason)


def size(kind: Kind, count: int, dimension: int) -> int:
    """Return the estimated bytes of an index in memory."""
    links = {"HNSW32": 2 * LINKS * 4 + 16}.get(kind, 0 if kind == "Flat" else 8)
    # "np": not polysemous; that costs seconds a piece, and serves only searches by Hamming distance.
    code = {"IVF,SQ8": dimension, "IVF,PQ": pieces(dimension)}.get(kind, 4 * dimension)
    centres = lists_of(count) if kind.startswith("IVF") else 0
    centres += {"IVF,PQ": CENTRES, "IVF,SQ8": 2}.get(kind, 0)  # of the codes; SQ8 has the ends of a range
    return count * (code + links) + centres * dimension * 4


def lists_of(count: int) -> int:
    """Return the number of lists of an inverted file: about four times the root of the number of vectors."""
    return max(1, min(int(4 * np.sqrt(count)), count // TRAINING_VECTORS_A_LIST or 1))


def pieces(dimension: int) -> int:
    """Return the bytes of a product-quantised vector: one for every four values, or the nearest divisor below."""
    return next(parts for parts in range(max(1, dimension // 4), 0, -1) if dimension % parts == 0)


def is_of(index: Any, kind: Kind) -> bool:
    """Return whether an index is of a kind."""
    return type(index) in _CLASSES[kind]


def settings(kind: Kind, effort: int, selector: Any = None) -> Any:
    """Return FAISS search parameters; `selector` restricts the results."""
    return _plain_settings(kind, effort) if selector is None else _settings(kind, effort, selector)


def _settings(kind: Kind, effort: int, selector: Any) -> Any:
    if kind == "HNSW32":
        return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
    if kind.startswith("IVF"):
        return faiss.SearchParametersIVF(nprobe=effort, sel=selector)
    return faiss.SearchParameters(sel=selector)


@functools.cache
def _plain_settings(kind: Kind, effort: int) -> Any:
    """Return shared parameters, which searches only read: creating them costs as much as half a search of a graph."""
    return _settings(kind, effort, None)


def search(
    index: Any, queries: NDArray[np.float32], k: int, parameters: Any
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scores and positions `[B, k]` of an index's nearest vectors, with parameters of `settings`.

    `faiss.contrib.torch_utils`, which pytorch-metric-learning imports, replaces `search` by a function without
    parameters, and keeps the original as `search_numpy`.
    """
    hits: tuple[NDArray[np.float32], NDArray[np.int64]]
    hits = getattr(index, "search_numpy", index.search)(queries, k, params=parameters)
    return hits


def _choose(fitting: Sequence[Kind], count: int, dimension: int, memory: int | None) -> tuple[Kind, str]:
    allowed = "any memory" if memory is None else f"{memory:,} bytes"
    if not fitting:
        smallest = min(KINDS, key=lambda kind: size(kind, count, dimension))
        raise ConfigurationError(
            f"no index of {count:,} × {dimension} fits into {memory:,} bytes: the smallest, {smallest}, needs "
            f"{size(smallest, count, dimension):,}; raise --max-index-memory, or use more shards on more machines"
        )
    if count < EXACT_BELOW and "Flat" in fitting:
        return "Flat", f"{count:,} vectors are fewer than {EXACT_BELOW:,}: an exact scan is fast"
    kind = next((kind for kind in ("HNSW32", "IVF,Flat", "IVF,SQ8", "IVF,PQ") if kind in fitting), fitting[0])
    return kind, f"the fastest kind for {count:,} × {dimension} within {allowed}"


def _train(kind: Kind, vectors: NDArray[np.float32]) -> Any:
    count, dimension = vectors.shape
    metric = faiss.METRIC_INNER_PRODUCT
    if kind == "HNSW32":
        graph = faiss.IndexHNSWFlat(dimension, LINKS, metric)
        graph.hnsw.efConstruction = CONSTRUCTION_BREADTH
        return graph
    code = {"IVF,SQ8": "SQ8", "IVF,PQ": f"PQ{pieces(dimension)}x8np"}.get(kind, "Flat")
    lists = lists_of(count)
    if kind == "IVF,PQ" and count < CENTRES:
        raise ConfigurationError(
            f"IVF,PQ learns from at least {CENTRES} vectors, there are {count}: choose another kind"
        )
    index = faiss.index_factory(dimension, "Flat" if kind == "Flat" else f"IVF{lists},{code}", metric)
    if not index.is_trained:
        sample = np.random.default_rng(0).permutation(count)[: max(CENTRES, lists) * TRAINING_VECTORS_A_LIST]
        index.train(vectors[np.sort(sample)])
    return index


def _tune(
    index: Any, kind: Kind, vectors: NDArray[np.float32], queries: NDArray[np.float32], target: float
) -> tuple[int, float]:
    """Return the lowest effort of a search in `vectors` that reaches `target`, and its measured recall@10."""
    k = min(NEIGHBOURS, len(vectors))
    nearest, true = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    recall = 0.0
    effort = EFFORTS[0]
    for effort in _efforts(index, kind):
        _, positions = search(index, queries, k, settings(kind, effort))
        similarities = np.einsum("qd,qkd->qk", queries, vectors[positions])
        correct = (positions[:, :, None] == true[:, None]).any(2) | (similarities >= nearest[:, -1:] - EQUAL_SIMILARITY)
        recall = float(np.mean(correct & (positions >= 0)))
        if recall >= target:
            break
    return effort, recall


def _efforts(index: Any, kind: Kind) -> list[int]:
    if kind == "HNSW32":
        return list(EFFORTS)
    return sorted({min(effort // 8 or 1, index.nlist) for effort in EFFORTS} | {min(e, index.nlist) for e in EFFORTS})
