"""The table of promises and of the runs that tried them, for `docs/reliability.md`."""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"

PROMISES = {
    "R1": "kill -9 of the writer at random points: no acknowledged write is lost, nothing deleted comes back",
    "R2": "loss of power, as prefixes of the trace of fsync calls: no acknowledged write is lost",
    "R3": "a full disk: writes answer 507, searches go on, writes resume when there is space",
    "R4": "random upserts, deletions, searches, compactions and reopenings equal a NumPy oracle",
    "R5": "recall does not change by a restart or a restore, and at most half a point by compaction",
    "R6": "any replica is killed under load: no request fails, full strength within 30 s",
    "R7": "a shard is down: the response says that it is partial, or 503",
    "R8": "rolling update of model and index under load: no request fails, each response names its versions",
    "R9": "a bundle, table and index that do not belong together are refused",
    "R10": "load of 2 and 10 times the capacity: 200, 429 and 503 only, flat memory",
    "R11": "damaged index and bundle files are refused, the last good version keeps serving",
    "R12": "training that is killed, and damaged checkpoints: the end equals an uninterrupted run",
    "R13": "SIGTERM under load: no request in flight is lost",
    "R14": "hours of load: memory grows by at most 1 % an hour, file descriptors do not",
    "I1": "pictures of Pillow's tests, and mutants: no 5xx, no process dies, at most 512 MB each",
    "I2": "decompression bombs are rejected with little memory",
    "I3": "one picture in every format, colour mode and orientation has one embedding (cosine at least .99)",
    "I4": "a truncated picture is 422, never half grey",
    "I5": "odd videos and mutants: the right answer or a 4xx",
    "I6": "polyglots, SVG, EPS and PDF: 415, decided by content",
    "I7": "oversized, chunked and slow bodies, bad multipart, deep JSON: 4xx, read up to the limit only",
    "I8": "vectors that are NaN, infinite, zero or of a wrong length, edges of k and ids: 4xx, nothing changes",
    "I9": "random requests by our OpenAPI: no 5xx, every response conforms to it",
    "S1": "URIs that try to reach another host or folder than the operator's: nothing is requested",
    "S2": "path traversal and links in names of bundles, indexes and pictures: nothing outside is read",
    "S3": "pickled bundles and configurations are never loaded",
    "S4": "without a key the service does not start on an address that others reach",
    "S5": "each route without a key, and with one to read: 401 or 403 where the reference says so",
    "S6": "a decoder is killed while it decodes: 422 for that request, the replica lives",
}


def reliability_table(results: Path = HERE / "reliability.json") -> str:
    """Return a Markdown table: each promise, and what was run for it at each size, or how to run it."""
    rows = json.loads(results.read_text())
    tests = files_by_promise()
    lines = [
        "| | what must hold | size | passed | result | date | seed | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for promise, text in PROMISES.items():
        runs = [row for row in rows if row["id"] == promise]
        for row in runs:
            passed = "yes" if row["passed"] else "**no**"
            cells = (promise, text, row["size"], passed, row["result"], row["date"], row["seed"], f"`{row['command']}`")
            lines.append(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in cells)} |")
        command = f"`GALLERIA_SOAK=50 pytest --reliability=docs/reliability.json {' '.join(tests.get(promise, ()))}`"
        if not any(row["size"] == "CI" for row in runs):
            lines.append(f"| {promise} | {text} | CI | not run | | | | |")
        if not any(row["size"] != "CI" for row in runs):
            lines.append(f"| {promise} | {text} | long | not run | | | | {command if promise in tests else ''} |")
    return "\n".join(lines)


def files_by_promise(folder: Path = TESTS) -> dict[str, list[str]]:
    """Return the files of the tests whose docstring begins with the id of a promise, by id."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("test_*.py")):
        name = str(file.relative_to(folder.parent))
        for promise in sorted(set(re.findall(r'\n +"""([RIS]\d{1,2}): ', file.read_text()))):
            found.setdefault(promise, []).append(name)
    return found
