"""What tests share: drawn products, a small bundle made of them, and one Ray instance for each test process."""

import faulthandler
import gc
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.drawings import product_rows
from tests.threads import Leaks, policies, scheduling

if TYPE_CHECKING:
    from galleria.learn.bundle import Bundle

pytest_plugins = ("tests.reliability",)

PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
"""Whether this is one of several test processes, which share the cores."""

EXIT_TIMEOUT_S = 30
"""In which the process ends after its last line: this machine may be busy."""

if PARALLEL:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch's import


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several test processes, begin with the files that start Ray: they take longest."""
    if PARALLEL:
        ray_files = {item.path for item in items if item.get_closest_marker("ray")}
        items.sort(key=lambda item: item.path not in ray_files)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, one process gets all files that use the service on Ray: its start takes half a minute."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    files = (Path(__file__).parent / "serving").rglob("test_*.py")
    service = {path.relative_to(config.rootpath).as_posix() for path in files if "mark.ray" in path.read_text()}

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "service" if file in service else file

    return Scheduling(config, log)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End this process, with the stacks of its threads, where it does not end by itself soon after its last line."""
    if not PARALLEL:  # else it waits for the others
        faulthandler.dump_traceback_later(EXIT_TIMEOUT_S, exit=True, file=sys.__stderr__)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    return product_rows()


@pytest.fixture(scope="session")
def bundle(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> "Bundle":
    """A text_guided bundle with both towers and random weights from a fixed seed."""
    import torch

    from galleria.families.text_guided.recipes import debug
    from galleria.learn.bundle import save_bundle
    from galleria.learn.family import load_family

    family = load_family("text_guided")
    context = family.context(debug().model, rows)
    torch.manual_seed(0)
    task = family.build(context.config)
    return save_bundle(
        tmp_path_factory.mktemp("bundle") / "bundle", family, context, task, {}, "# A bundle for tests\n"
    )


@pytest.fixture(scope="session")
def clean_rows() -> list[dict[str, Any]]:
    """48 training, 12 validation and 12 test products in two renderings."""
    return [
        *product_rows(48),
        *product_rows(12, "validation", first=100),
        *product_rows(12, "test", first=200),
    ]


@pytest.fixture(scope="session")
def clean_data(clean_rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same on disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from galleria.demo.products import PRODUCTS

    path = tmp_path_factory.mktemp("clean") / "products.parquet"
    pq.write_table(pa.Table.from_pylist(clean_rows, PRODUCTS), path)
    return str(path)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What models leave for their next start is not left in the user's own folder, but in one for all processes."""
    base = tmp_path_factory.getbasetemp()
    os.environ["GALLERIA_CACHE"] = str((base.parent if PARALLEL else base) / "cache")


@pytest.fixture(scope="session", autouse=True)
def _same_scheduling() -> Iterator[None]:
    """No test leaves this process, or a thread of it, with another priority: a real-time one starves all others."""
    if not hasattr(os, "sched_getscheduler"):  # only Linux tells
        yield
        return
    before = scheduling()
    yield
    others = {name: policy for name, policy in policies().items() if policy != before.policy}
    assert not others, f"threads with another scheduling policy than {before.policy}, which this process had: {others}"
    assert scheduling() == before, "this process has another niceness than before the tests"


@pytest.fixture(scope="session", autouse=True)
def _leaks() -> Iterator[Leaks]:
    """Threads that are busy when the last test has ended, which would keep this process from ending, fail it."""
    leaks = Leaks()
    yield leaks
    left = leaks.left_by_session()
    assert not left, f"threads that are still busy: {', '.join(left)}"


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> None:
    """Leave out what exists by now, mostly imports, of further garbage collections: many tests end with a full one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_thread_is_left(_leaks: Leaks, request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves threads of the package behind fails. Those of fixtures of a wider scope began before it."""
    before = set(threading.enumerate())
    yield
    left = _leaks.left(before, request.node.nodeid)
    assert not left, f"threads that this test has left behind: {', '.join(left)}"


@pytest.fixture(scope="session")
def ray_instance() -> Iterator[None]:
    """A local Ray with few resources. `RAY_TMPDIR` keeps it apart from any other and its socket paths short."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    os.environ.update(
        RAY_TMPDIR=folder,
        RAY_worker_niceness="0",
        RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1",
        RAY_DATA_DISABLE_PROGRESS_BARS="1",
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    )
    import ray

    from galleria.serving.ingress import MIDDLEWARE_FUNCTION, MIDDLEWARE_VARIABLE

    os.environ[MIDDLEWARE_VARIABLE] = MIDDLEWARE_FUNCTION

    ray.init(address="local", num_cpus=4, object_store_memory=400_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
