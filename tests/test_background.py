"""Background threads end before the interpreter does, and never abort the process."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from galleria.background import Background, lower_priority
from galleria.catalog.items import upserts
from tests.catalog.tables import HASH, at_angle, create_table


def in_a_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def test_end_stops_and_joins():
    done = []
    stop = threading.Event()
    background = Background("test", lambda: (stop.wait(60), done.append(1)), stop.set)

    background.end()

    assert done == [1]


def test_process_end_stops_thread():
    ended = in_a_process(
        "import threading\n"
        "from galleria.background import Background\n"
        "stop = threading.Event()\n"
        "def run():\n"
        "    stop.wait(60)\n"
        "    print('over')\n"
        "Background('test', run, stop.set)\n"
        "print('main is over')\n"
    )

    assert (ended.returncode, ended.stdout) == (0, "main is over\nover\n")


def test_process_end_flushes_writer(tmp_path):
    """A writer that nobody waits for is inside Lance then, and the process dies by SIGABRT."""
    create_table(tmp_path / "t", upserts([{"id": "a", "title": "a", "text": ""}], at_angle(0), HASH))

    ended = in_a_process(
        "import sys\n"
        "from galleria.catalog.writer import CatalogWriter\n"
        "writer = CatalogWriter(sys.argv[1])\n"
        "for number in range(20):\n"
        "    answer = writer.delete([str(number)] if number else ['a'])\n"
        "answer.add_done_callback(lambda answer: print(answer.result().version))\n",
        tmp_path / "t",
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "3\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux alone")
def test_lower_priority_covers_child_threads():
    def of_one_that_it_starts() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(niceness).result()

    with ThreadPoolExecutor(1, initializer=lower_priority, initargs=(5,)) as pool:
        assert pool.submit(niceness).result() - niceness() == 5
        assert pool.submit(of_one_that_it_starts).result() - niceness() == 5
    with ThreadPoolExecutor(1, initializer=lower_priority, initargs=(40,)) as pool:
        assert pool.submit(niceness).result() == 19, "and no more"


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
