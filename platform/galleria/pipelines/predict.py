"""Runs a bundle over a data set with Ray Data: the step that evaluation and embedding share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.util.queue import Queue

from galleria.learn.bundle import Bundle
from galleria.learn.examples import Examples, without_pictures
from galleria.learn.task import Row
from galleria.pipelines.gpus import ClusterGpus, Gpus
from galleria.pipelines.rejects import Reject

BATCH_ROWS = 64
THREADS = 2
"""CPUs of one predicting actor without a GPU: fewer actors with more threads, since each holds the network once."""


class Predictor:
    """A Ray Data actor: rows in, the same rows out with what the bundle computes for them.

    Arrays come out as tensor columns: the example's small ones under `in/…`, the outputs under `out/…`.
    """

    def __init__(self, path: str, threads: int, rejects: Queue, keep: tuple[str, ...], reads: tuple[str, ...]) -> None:
        torch.set_num_threads(threads)  # Ray allows one
        bundle = Bundle.open(path)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.task = bundle.task().to(self.device)
        self.examples = Examples(bundle.family, bundle.context, threads, self._reject)
        self.rejects = rejects
        self.keep = keep
        self.reads = reads
        self.bad: set[str] = set()

    def __call__(self, table: pa.Table) -> Mapping[str, Any]:
        """Predict one batch. A row that cannot be used is reported to the driver and left out."""
        rows = table.to_pylist()
        self.bad.clear()
        columns: dict[str, Any] = {}
        read = [{name: row[name] for name in ("id", *self.reads) if name in row} for row in rows]
        for batch in self.examples.stream([read]):
            outputs = self.task.predict({name: value.to(self.device) for name, value in batch.items()})
            columns = {f"in/{name}": value.numpy() for name, value in without_pictures(batch).items()}
            columns |= {f"out/{name}": value.cpu().numpy() for name, value in outputs.items()}
        good = [row for row in rows if row["id"] not in self.bad]
        for name in self.keep:
            columns[name] = np.array([row.get(name) for row in good] + [None], dtype=object)[:-1]
        return columns

    def _reject(self, row: Row, reason: str) -> None:
        self.bad.add(row["id"])
        self.rejects.put_nowait(Reject(row["id"], reason))


def predict(
    bundle: Bundle,
    dataset: ray.data.Dataset,
    rejects: list[Reject],
    keep: tuple[str, ...] = (),
    reads: tuple[str, ...] | None = None,
    gpus: Gpus = "auto",
    log: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """Yield batches of NumPy columns: those named in `keep`, inputs as `in/…` and outputs as `out/…`.

    Args:
        bundle: on a path that every node can read.
        dataset: rows of the bundle's family.
        rejects: receives the rows that could not be used.
        keep: columns of the rows to pass on.
        reads: columns that the model receives; by default all of its family's.
        gpus: the most that are used, or "auto": all that the cluster has or can start.
        log: is called with a line about the resources that are used.

    Raises:
        ConfigurationError: the cluster cannot have as many GPUs.
    """
    cluster = ClusterGpus.connected()
    gpus_used = cluster.to_predict(gpus)
    log(f"computing {cluster.describe(gpus_used)}")
    messages = Queue(actor_options={"num_cpus": 0})
    threads = threads_for_gpu(ray.nodes()) if gpus_used else THREADS  # type: ignore[no-untyped-call]
    cpus = ray.cluster_resources()["CPU"]  # type: ignore[no-untyped-call]
    max_actors = gpus_used or int((cpus - THREADS) // THREADS)
    predicted = dataset.map_batches(
        Predictor,
        fn_constructor_args=(
            str(bundle.path.resolve()),
            threads,
            messages,
            keep,
            tuple(bundle.family.schema.names) if reads is None else reads,
        ),
        batch_size=BATCH_ROWS,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, max_actors)),
        num_cpus=threads,
        num_gpus=1 if gpus_used else 0,
    )
    try:
        yield from predicted.iter_batches(batch_size=None, batch_format="numpy")
        while not messages.empty():
            rejects.append(messages.get())
    finally:
        messages.shutdown()


def threads_for_gpu(nodes: Sequence[Mapping[str, Any]]) -> int:
    """Return the CPUs of the actor that decodes for one GPU: the node's, less one for Ray Data, divided by its GPUs.

    Args:
        nodes: as `ray.nodes()` lists them. The smallest with GPUs counts: all actors are alike. Where none is alive
            yet, the CPUs are `THREADS`.
    """
    having = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("GPU")]
    return max(1, min((int((has.get("CPU", 0) - 1) // has["GPU"]) for has in having), default=THREADS))
