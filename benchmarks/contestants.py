"""Contestants of `benchmarks.catalog`: each a process of its own, called over stdin and stdout."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.peers.environments import PEERS_FOLDER, python_of
from benchmarks.results import Row

PEERS = {
    "lancedb": ("lancedb==0.40.0",),
    "chroma": ("chromadb==1.5.9",),
    "milvus": ("pymilvus==3.0.2", "milvus-lite==3.2.2"),
    "autofaiss": ("autofaiss==2.18.0", "pyarrow==20.0.0"),  # newer ones refuse its NumPy
}
STORES = ("lancedb", "chroma", "milvus")
"""Peers that can be written to."""

END_TIMEOUT_S = 60


class ContestantProcess:
    """A contestant's process."""

    def __init__(self, name: str, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self._errors = (PEERS_FOLDER / f"{name}.stderr").open("ab")
        python = python_of(name) if name in PEERS else sys.executable
        module = "benchmarks.catalog_own" if name == "own" else f"benchmarks.peers.{name}"
        self._process = subprocess.Popen(
            [*prefix, python, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def call(self, method: str, **arguments: Any) -> Row:
        """Call a method of the contestant; where a peer fails, the result has the reason in `error`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"method": method, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": f"ended with {self._process.wait()}"}
        if "error" in reply and self.name in ("own", "faiss"):
            raise SystemExit(f"{self.name} {method}: {reply['error']}: see {self._errors.name}")
        result: Row = reply.get("result", reply)
        return result

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._errors.close()


@contextmanager
def contestant_process(name: str, prefix: Sequence[str] = ()) -> Iterator[ContestantProcess]:
    """Run a contestant while the block lasts; `prefix` goes before its command, as that of a tracer."""
    process = ContestantProcess(name, prefix)
    try:
        yield process
    finally:
        process.close()
