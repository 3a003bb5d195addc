"""Threads that a test leaves behind fail it, and those that are busy at the end fail the session."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.threads import package_threads

ROOT = Path(__file__).parents[1]
CONFTEST = """
import threading
from tests.conftest import _leaks, _no_thread_is_left
SESSION_ENDS = threading.Event()
def pytest_sessionfinish():
    SESSION_ENDS.set()
"""
HEAD = """
import threading
from concurrent.futures import ThreadPoolExecutor
import pytest
from conftest import SESSION_ENDS
from galleria.background import Background
"""
FOLLOWER = """
def test_follower():
    stopped = threading.Event()
    Background("catalogue", stopped.wait, stopped.set)
"""
CLOSED = """
def test_follower():
    stopped = threading.Event()
    Background("catalogue", stopped.wait, stopped.set).end()
def test_executor():
    ThreadPoolExecutor(2, "search").submit(print).result()
def test_foreign():
    threading.Thread(target=threading.Event().wait, name="grpc", daemon=True).start()
"""
SERVICE = """
@pytest.fixture(scope="module")
def service():
    return ThreadPoolExecutor(2, "search")
def test_idle(service):
    service.submit(print).result()
"""
BUSY = """
THREADS = ThreadPoolExecutor(2, "search")
def test_busy():
    THREADS.submit(SESSION_ENDS.wait)
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a session prints that has tests of every kind."""
    folder = tmp_path_factory.mktemp("session")
    (folder / "conftest.py").write_text(CONFTEST)
    files = {"follower": FOLLOWER, "closed": CLOSED, "service": SERVICE, "busy": BUSY}
    for name, code in files.items():
        (folder / f"test_{name}.py").write_text(HEAD + code)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    command += [str(folder / f"test_{name}.py") for name in files]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def outcomes(printed: str, name: str) -> list[str]:
    """Return the outcomes of the tests of a file, sorted."""
    return sorted(re.findall(rf"^([A-Z]+) \S*test_{name}\.py::", printed, re.MULTILINE))


def test_follower_left_behind_fails_its_test(printed: str) -> None:
    assert "threads that this test has left behind: catalogue" in printed
    assert outcomes(printed, "follower") == ["ERROR", "PASSED"]


def test_busy_executor_fails_the_session(printed: str) -> None:
    assert "threads that are still busy: search_0 of test_busy.py::test_busy\n" in printed
    assert outcomes(printed, "busy") == ["ERROR", "PASSED"]


def test_closed_and_foreign_threads_pass(printed: str) -> None:
    assert outcomes(printed, "closed") == ["PASSED"] * 3


def test_service_of_a_module_passes(printed: str) -> None:
    assert outcomes(printed, "service") == ["PASSED"]


def test_names_of_threads_are_found() -> None:
    assert {"catalogue", "search", "decode", "predict", "writer", "maintenance", "images"} <= package_threads()
