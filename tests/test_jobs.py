"""A real job, submitted to a real cluster: a head node of its own on this machine."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from galleria.demo.products import PRODUCTS
from galleria.learn.bundle import Bundle
from tests.drawings import product_rows
from tests.ports import free_ports

ROOT = Path(__file__).parents[1]
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """Environment of a client of a fresh one-node cluster. Only the processes started here are ended."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    port, dashboard, agent, agent_grpc, client = free_ports(5)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PATH": PATH, "RAY_TMPDIR": folder, "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    command = ["ray", "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += ["--num-cpus=4", "--object-store-memory=300000000", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--ray-client-server-port={client}"]
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api/jobs/", timeout=5):
            break
        assert head.poll() is None, "the head node did not start"
        assert time.monotonic() < deadline, "the head node is not ready after two minutes"
        time.sleep(0.5)
    yield environment | {"RAY_API_SERVER_ADDRESS": address}
    os.killpg(head.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
    head.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
def test_submitted_job_leaves_a_bundle(cluster: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "products.parquet"
    rows: list[dict[str, Any]] = [*product_rows(24), *product_rows(8, "validation", first=100)]
    pq.write_table(pa.Table.from_pylist(rows, PRODUCTS), data)
    command = ["ray", "job", "submit", "--runtime-env", "jobs/runtime_env.yaml", "--working-dir", ".", "--"]
    command += ["python", "-m", "jobs.train", "text_guided", str(data), "--recipe", "debug"]
    command += ["--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    bundle = Bundle.open(tmp_path / "out" / "bundle")
    assert bundle.hash[:12] in done.stdout
    assert bundle.metrics["R@1"].count == 8


def test_cluster_file_is_valid() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["provider"] = {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}  # checked offline
    types = config.pop("available_node_types")
    assert config.pop("head_node_type") in types
    validate_config(prepare_config(config))


def test_job_environment_has_source_root() -> None:
    environment = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())
    assert environment == {"env_vars": {"PYTHONPATH": "platform"}}
    assert (ROOT / "platform" / "galleria" / "__init__.py").is_file()
