"""Threads that a test leaves behind fail it, and those that are busy at the end fail the session."""

import subprocess
import sys
from pathlib import Path

from tests.threads import package_threads

ROOT = Path(__file__).parents[1]
CONFTEST = "from tests.conftest import _leaks, _no_thread_is_left  # noqa: F401\n"
HEAD = """
import threading
from concurrent.futures import ThreadPoolExecutor
import pytest
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
STOP = threading.Event()
THREADS = ThreadPoolExecutor(2, "search")
def test_busy():
    THREADS.submit(STOP.wait, 12)
"""


def outcome(tmp_path: Path, code: str) -> str:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_leak.py").write_text(HEAD + code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout


def test_follower_left_behind_fails_its_test(tmp_path):
    printed = outcome(tmp_path, FOLLOWER)
    assert "threads that this test has left behind: catalogue" in printed
    assert "1 passed, 1 error" in printed


def test_busy_executor_fails_the_session(tmp_path):
    printed = outcome(tmp_path, BUSY)
    assert "threads that are still busy: search_0 of test_leak.py::test_busy" in printed


def test_closed_and_foreign_threads_pass(tmp_path):
    assert "3 passed" in outcome(tmp_path, CLOSED)


def test_service_of_a_module_passes(tmp_path):
    assert "1 passed" in outcome(tmp_path, SERVICE)


def test_names_of_threads_are_found():
    assert {"catalogue", "search", "decode", "predict", "writer", "maintenance", "images"} <= package_threads()
