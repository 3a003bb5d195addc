"""Scores a bundle on one split of a data set."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from galleria.learn.bundle import Bundle
from galleria.learn.metrics.score import Score
from galleria.pipelines.cluster import ray_cluster
from galleria.pipelines.datasets import ProductDataset, Source
from galleria.pipelines.gpus import Gpus
from galleria.pipelines.predict import predict
from galleria.pipelines.rejects import Reject, write_rejects


def evaluate(
    bundle: Bundle,
    source: Source,
    split: str = "test",
    out: Path | None = None,
    *,
    gpus: Gpus = "auto",
    log: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> Mapping[str, Score]:
    """Return the scores of `split`; a family that ranks is evaluated against the gallery rows of ALL splits.

    Args:
        bundle: model to evaluate.
        source: the data set.
        split: rows to evaluate.
        out: folder for `rejects.jsonl`.
        gpus: the most that are used, or "auto": all that the cluster has or can start.
        log: is called with a line about the resources that are used.
        progress: is called with the number of rows that were predicted, and of those that may have to be.

    Raises:
        ConfigurationError: the cluster cannot have as many GPUs.
        DataError: the data set cannot be used.
    """
    data = ProductDataset(source, bundle.family)
    data.require(split)
    rejects: list[Reject] = list(data.rejects)
    with ray_cluster():
        stream = data.gallery(split) if bundle.family.ranks else data.stream(split)
        total = sum(data.counts.values()) if bundle.family.ranks else data.counts[split]
        batches = _counted(predict(bundle, stream, rejects, keep=("split",), gpus=gpus, log=log), total, progress)
        pairs = ((_inputs(batch, split), _tensors(batch, "out/")) for batch in batches)  # one at a time
        scores = bundle.family.evaluate(pairs, bundle.context.labels)
    if out is not None:
        write_rejects(out, rejects)
    return scores


def _counted(
    batches: Iterator[dict[str, Any]], total: int, progress: Callable[[int, int | None], None]
) -> Iterator[dict[str, Any]]:
    done = 0
    for batch in batches:
        done += len(batch["split"])
        progress(done, total)
        yield batch


def _inputs(batch: Mapping[str, Any], split: str) -> dict[str, torch.Tensor]:
    return _tensors(batch, "in/") | {"evaluated": torch.from_numpy(batch["split"] == split)}


def _tensors(batch: Mapping[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(np.array(value))
        for name, value in batch.items()
        if name.startswith(prefix)
    }
