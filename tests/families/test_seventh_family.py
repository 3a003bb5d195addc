"""A family that galleria has never heard of: one folder and one test file, and every command accepts it."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.add_a_family.test_stripes import contract_rows, row
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree; the family's folder and its test file are all that is added."""
    copy = tmp_path_factory.mktemp("source_tree")
    for name in ("platform", "jobs", "tests", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    example = ROOT / "examples" / "add_a_family"
    shutil.copytree(example / "stripes", copy / "platform" / "galleria" / "families" / "stripes")
    shutil.copy(example / "test_stripes.py", copy / "tests" / "families")
    return copy


def environment(source_tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(source_tree / "platform"), str(source_tree)])}


def run(source_tree: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=source_tree,
        env=environment(source_tree),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@contextlib.contextmanager
def service(source_tree: Path, bundle: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "jobs.serve", "--bundle", "", "--model", f"stripes={bundle}", "--port", str(port)]
    command += ["--option", "runtime=torch"]
    log = source_tree / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=source_tree, env=environment(source_tree), stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                break
            time.sleep(0.1)
        else:
            pytest.fail(log.read_text()[-3000:])
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def classify(address: str, picture: bytes) -> Any:
    body = json.dumps({"image": base64.b64encode(picture).decode()}).encode()
    request = urllib.request.Request(f"{address}/v1/classify/stripes", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_new_family_passes_the_contract(source_tree: Path) -> None:
    shown = run(
        source_tree, "pytest", "-q", "-p", "no:cacheprovider", "tests/families/test_contract.py", "-k", "stripes"
    )

    assert " passed" in shown
    assert "failed" not in shown


def test_new_family_trains_and_is_served(source_tree: Path) -> None:
    data, out = source_tree / "stripes.parquet", source_tree / "run"
    rows = [row for split in ("train", "validation", "test") for row in contract_rows(split)]
    pq.write_table(pa.Table.from_pylist(rows), data)

    run(source_tree, "jobs.train", "stripes", str(data), "--recipe", "debug", "--out", str(out))
    scored = json.loads(run(source_tree, "jobs.evaluate", str(out / "bundle"), str(data), "--json").splitlines()[-1])
    with service(source_tree, out / "bundle") as address:
        answers = [classify(address, row(number)["image"]) for number in range(2)]

    accuracy = scored["scores"]["accuracy"]["value"]
    assert accuracy > 0.9
    assert [answer["result"]["pattern"] for answer in answers] == ["lying", "standing"]
