"""Joins the Ray cluster of the job, or starts a small one on this machine and stops it again."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

OBJECT_STORE_BYTES = 1_000_000_000
LOGICAL_CPUS = 4
"""Fewest logical CPUs of a local Ray. Training workers hold theirs for the whole run, and Ray Data needs one more."""


@contextlib.contextmanager
def ray_cluster() -> Iterator[None]:
    """Connect to Ray, or start it, for the duration of the block.

    Inside a job, or if `RAY_ADDRESS` is set, that cluster is used. A Ray that this process is connected to is left
    as it is. Otherwise a local Ray is started, and stopped at the end.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # report() waits one such interval
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800")  # in which an autoscaler starts nodes
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")  # else Ray warns that we use it
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # ours are shown where there is a terminal
    warnings.filterwarnings("ignore", "lance is not fork-safe")  # Ray forks only to start other programs
    import ray

    if ray.is_initialized():
        _configure_ray_data()
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, LOGICAL_CPUS),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    _configure_ray_data()
    try:
        yield
    finally:
        ray.shutdown()


def _configure_ray_data() -> None:
    """Have Ray Data keep the order of the files, so that results are reproducible, and print no progress."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.use_datasource_v2 = False  # it starts actors for every Parquet data set only to read footers
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it logs that it is off
    logging.getLogger("ray.train").setLevel(logging.WARNING)
