"""Acknowledged writes survive kills, power losses, full disks and any order of operations."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galleria.catalog.items import item_key, table_schema, upserts
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.catalog.writer import CatalogWriter
from galleria.durable import Sync, sync
from galleria.errors import CatalogFullError
from tests.catalog.spawner import IDS, item, vector
from tests.catalog.tables import HASH, create_table, index_of, rows, titles, unit
from tests.soak import SOAK

KILLS = 20 * SOAK
POWER_LOSSES = 100 * SOAK
COMMITS = 20 + 5 * SOAK
OPERATIONS = 2_000 * SOAK
NOW = timedelta(0)
ALL_IDS = [*IDS, *(f"other {number}" for number in range(300))]
"""Ids of the items that change, and of others in the same file, which so is too large to be written again each time."""


class Expected:
    """Titles that a table may hold: the last acknowledged one, or one requested since; None where there is no item."""

    def __init__(self) -> None:
        self.values: dict[str, list[str | None]] = {name: ["first"] for name in ALL_IDS}
        self._requests: dict[Any, dict[str, int]] = {}

    def request(self, number: Any, names: list[str], title: str | None) -> None:
        self._requests[number] = {}
        for name in names:
            self.values[name].append(title)
            self._requests[number][name] = len(self.values[name]) - 1

    def acknowledge(self, number: Any) -> None:
        for name, position in self._requests.pop(number).items():
            self.values[name][:position] = [self.values[name][position]] * position

    def check(self, table: ProductTable) -> None:
        """Check that a table has all acknowledged values and no others, and that its rows are complete."""
        actual = {}
        for batch in table.items(("id", "key", "title", "image", "attributes", "embedding")):
            for row in batch.to_pylist():
                title = row["title"]
                actual[row["id"]] = title
                assert row["key"] == item_key(row["id"])
                assert row["image"] == title.encode() * 20
                assert json.loads(row["attributes"]) == {"title": title}
                assert row["embedding"] == vector(title).tolist()
        assert set(actual) <= set(ALL_IDS)
        for name in ALL_IDS:
            assert actual.get(name) in self.values[name], name

    def restart_from(self, table: ProductTable) -> None:
        """Expect what a table holds now."""
        actual = titles(table)
        self.values = {name: [actual.get(name)] for name in ALL_IDS}
        self._requests = {}


@pytest.fixture
def spawner(tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.catalog.spawner", str(tmp_path / "t")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    yield process
    process.communicate()


def create_first(path: Path, to_disk: Sync = sync) -> None:
    """Create a table with all items in one file."""
    table = ProductTable.create(path, table_schema(3, HASH), to_disk)
    table.append(upserts([item(name, "first") for name in ALL_IDS], np.stack([vector("first")] * len(ALL_IDS)), HASH))


def marked(path: Path) -> int:
    """Return the number of rows that deletion vectors of a table mark."""
    return sum(dead for _, dead in ProductTable(path).fragments)


def killed(spawner: subprocess.Popen[bytes], seed: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Yield what a writer reports until it is killed at a random point."""
    spawner.stdin.write(f"{seed}\n".encode())
    spawner.stdin.flush()
    child = None
    left = chance.randint(1, 40)
    for line in spawner.stdout:
        report = json.loads(line)
        child = report.get("started", child)
        if "ended" in report:
            return
        left -= 1
        if left <= 0 and child is not None:
            time.sleep(chance.random() * 0.01)
            os.kill(child, signal.SIGKILL)
            left = 10**9
        yield report


@pytest.mark.slow
def test_acknowledged_writes_survive_kills(tmp_path, spawner):
    """R1: the writer is killed at random points."""
    create_first(tmp_path / "t")
    expected = Expected()
    acknowledged = 0
    for seed in range(KILLS):
        for report in killed(spawner, seed, random.Random(seed)):
            if "requested" in report:
                expected.request(report["requested"], report["names"], report["title"])
            elif "acknowledged" in report:
                expected.acknowledge(report["acknowledged"])
                acknowledged += 1
        table = ProductTable.recover(tmp_path / "t")
        expected.check(table)
        expected.restart_from(table)
    assert acknowledged > KILLS
    assert marked(tmp_path / "t") == len(IDS)
    assert list(tmp_path.glob("t/_versions/*.torn")) == []


class Disk:
    """Records every sync, and what else a disk could have written by then.

    An event holds the synced content of a file or names in a folder, and the content of all files at that time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[tuple[str, Any, Any, Any]] = []
        self._contents: dict[tuple[Path, float, int], bytes] = {}

    def __call__(self, path: Path) -> None:
        synced = frozenset(child.name for child in path.iterdir()) if path.is_dir() else path.read_bytes()
        self.events.append(("sync", path, synced, self._all()))

    def record(self, kind: str, *what: Any) -> None:
        self.events.append((kind, what, None, None))

    def _all(self) -> dict[Path, bytes]:
        """Return all files with their contents; each content is stored once."""
        files = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                stat = path.stat()
                key = (path, stat.st_mtime_ns, stat.st_size)
                if key not in self._contents:
                    self._contents[key] = path.read_bytes()
                files[path] = self._contents[key]
        return files


def after_power_loss(events: list[Any], root: Path, unsynced: str) -> dict[Path, bytes]:
    """Return what a disk holds after these events; `unsynced` says what is left of content that was not synced."""
    contents: dict[Path, bytes] = {}
    names: dict[Path, frozenset[str]] = {}
    current: dict[Path, bytes] = {}
    for kind, path, synced, files in events:
        if kind != "sync":
            continue
        current = files
        if isinstance(synced, bytes):
            contents[path] = synced
        else:
            names[path] = synced

    def named(path: Path) -> bool:
        return path == root.parent or (path.name in names.get(path.parent, ()) and named(path.parent))

    fraction = {"nothing": 0.0, "empty": 0.0, "half": 0.5, "whole": 1.0}[unsynced]

    remaining = {path: contents.get(path) for path in contents.keys() | current.keys() if named(path)}
    if unsynced != "nothing":
        remaining |= {path: contents.get(path) for path in current}
    for path, content in remaining.items():
        if content is None:
            content = current.get(path, b"")  # noqa: PLW2901
            remaining[path] = content[: int(fraction * len(content))]
    return remaining


def recorded(root: Path, commits: int) -> list[Any]:
    """Return the events of a writer, while other handles compact and write."""
    disk = Disk(root)
    chance = random.Random(0)
    create_first(root, disk)
    disk.record("created")
    writer = CatalogWriter(root, to_disk=disk)

    def write() -> None:
        number = len(disk.events)
        names = chance.sample(IDS, 2)
        title = None if chance.random() < 0.3 else f"{number}"
        disk.record("requested", number, names, title)
        if title is None:
            writer.delete(names).result()
        else:
            writer.put([item(name, title) for name in names], np.stack([vector(title)] * 2)).result()
        disk.record("acknowledged", number)

    def between(path: Path) -> None:
        write()
        disk(path)
        write()

    for commit in range(commits):
        write()
        if commit % 10 == 9:
            ProductTable(root, to_disk=between if commit % 20 == 9 else disk).compact(NOW)
        if commit % 10 == 5:
            writer.table.snapshot(f"at-{commit}")
    writer.close()
    return disk.events


@pytest.mark.slow
def test_acknowledged_writes_survive_power_loss(tmp_path):
    """R2: power is lost after a random call of fsync."""
    root = tmp_path / "t"
    events = recorded(root, COMMITS)
    assert marked(root) == len(IDS)
    chance = random.Random(1)
    variants = ("nothing", "empty", "half", "whole")
    for trial in range(POWER_LOSSES):
        length = chance.randint(1, len(events))
        unsynced = variants[trial % len(variants)]
        folder = tmp_path / f"after-{trial}"
        expected, created = Expected(), False
        for kind, what, _, _ in events[:length]:
            if kind == "requested":
                expected.request(*what)
            elif kind == "acknowledged":
                expected.acknowledge(*what)
            created |= kind == "created"
        if not created:
            continue
        for path, content in after_power_loss(events[:length], root, unsynced).items():
            file = folder / path.relative_to(root)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        try:
            table = ProductTable.recover(folder)
            expected.check(table)
            if trial % 10 == 0:
                after = titles(table) | {"item 0": "after"}
                assert titles(table.append(rows("item 0", title="after")).compact(NOW)) == after
        except Exception as error:
            raise AssertionError(f"after {length} events, of unsynced files {unsynced}: {error}") from error


@pytest.mark.parametrize("content", [b"", b'{"ver', b'{"version":1}', b'{"version":999}', b"\0" * 13])
def test_recover_ignores_version_hint(tmp_path, content):
    create_table(tmp_path / "t", rows("a"), rows("b"))
    (tmp_path / "t" / "_versions" / "latest_version_hint.json").write_bytes(content)

    for opened in (ProductTable(tmp_path / "t"), ProductTable.recover(tmp_path / "t")):
        assert (opened.version, opened.newest) == (3, 3)
    assert opened.append(rows("c")).version == 4


def manifests(path: Path) -> list[Path]:
    """Return the manifests of a table, newest first."""
    return sorted((path / "_versions").glob("*.manifest"))


@pytest.mark.parametrize("cut", [0, 1, 16, 0.5, -1])
def test_recover_renames_truncated_manifest(tmp_path, cut, caplog):
    create_table(tmp_path / "t", rows("a"), rows("b"))
    newest = manifests(tmp_path / "t")[0]
    content = newest.read_bytes()
    newest.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else cut])

    table = ProductTable.recover(tmp_path / "t")

    assert (table.version, list(titles(table))) == (2, ["a"])
    assert "cut short before it was acknowledged" in caplog.text
    assert (table.append(rows("c")).version, ProductTable(tmp_path / "t").version) == (3, 3)


def test_recover_renames_zeroed_manifest(tmp_path):
    create_table(tmp_path / "t", rows("a"), rows("b"))
    newest = manifests(tmp_path / "t")[0]
    content = newest.read_bytes()
    for start in range(0, len(content) - 16, 200):
        newest.write_bytes(content[:start] + bytes(200) + content[start + 200 :])
        table = ProductTable.recover(tmp_path / "t")
        assert table.version == 2 or list(titles(table)) != []
        newest.with_name(newest.name + ".torn").unlink(missing_ok=True)


def test_recover_skips_torn_older_manifest(tmp_path):
    create_table(tmp_path / "t", rows("a"), rows("b"), rows("c"))
    manifests(tmp_path / "t")[1].write_bytes(b"torn")

    table = ProductTable.recover(tmp_path / "t")

    assert sorted(titles(table)) == ["a", "b", "c"]
    assert [version for version, _ in table.versions()] == [1, 2, 4]
    assert sorted(titles(table.compact(NOW))) == ["a", "b", "c"]


def test_recover_leaves_intact_table_unchanged(tmp_path):
    create_table(tmp_path / "t", rows("a"), rows("b"))
    before = {path: path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file()}

    ProductTable.recover(tmp_path / "t")

    assert {path: path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file()} == before


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """Mount a disk of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this user may not mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_rejects_writes_until_freed(tmp_path, small_disk):
    """R3: writes are rejected and searches go on."""
    table = create_table(small_disk / "t", rows("first"))
    catalog = LiveCatalog(small_disk / "t", index_of(table, tmp_path / "index"), HASH)
    writer = CatalogWriter(small_disk / "t")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    written = {"first"}

    def fill():
        for number in range(100):
            big = {"id": f"{number}", "title": f"{number}", "image": os.urandom(30_000)}
            writer.put([big], unit(1)).result()
            written.add(f"{number}")

    with pytest.raises(CatalogFullError, match="free some space; reads still work"):
        fill()
    assert len(written) > 1
    assert set(titles(ProductTable(small_disk / "t"))) == written
    assert len(catalog.search(unit(1), 99)[0]) == 1
    catalog.refresh()
    assert len(catalog.search(unit(1), 99)[0]) == len(written)
    ballast.unlink()
    assert writer.put([{"id": "after", "title": "after"}], unit(1)).result().statuses == ("created",)
    assert set(titles(ProductTable.recover(small_disk / "t"))) == written | {"after"}
    writer.close()


def no_sync(path: Path) -> None:
    """Sync nothing: no power is lost here."""


class Life:
    """A catalogue and an oracle with the titles by id; an id with a title has one vector."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.ids = [f"{number}" for number in range(40)]
        self.vectors = {
            (name, title): vector
            for (name, title), vector in zip(
                [(name, title) for name in self.ids for title in "uvw"], unit(120, 8, seed), strict=True
            )
        }
        self.queries = unit(500, 8, seed + 1)
        self.titles: dict[str, str] = {}
        self.snapshots: dict[int, dict[str, str]] = {}
        self.path, self.index = folder / "t", folder / "index"
        others = [f"other {number}" for number in range(300)]  # in a file that is large enough to stay
        self.titles = dict.fromkeys(others + self.ids[:20], "u")
        self.vectors |= {(name, "u"): vector for name, vector in zip(others, unit(300, 8, seed + 2), strict=True)}
        items = [{"id": name, "title": title} for name, title in self.titles.items()]
        first = upserts(items, np.stack([self.vectors[pair] for pair in self.titles.items()]), HASH)
        index_of(create_table(self.path, first, dimension=8), self.index)
        self.open()

    def open(self) -> None:
        self.writer = CatalogWriter(self.path, to_disk=no_sync)
        self.catalog = LiveCatalog(self.path, self.index, HASH)

    def close(self) -> None:
        self.writer.close()
        self.catalog.close()

    def write(self, count: int) -> None:
        """Send puts and deletions, and check their statuses."""
        results = []
        for _ in range(count):
            name, title = self.chance.choice(self.ids), self.chance.choice("uvw")
            before = self.titles.get(name)
            if self.chance.random() < 0.35:
                self.titles.pop(name, None)
                results.append((self.writer.delete([name]), "deleted" if before else "absent"))
            else:
                self.titles[name] = title
                status = "created" if before is None else "unchanged" if before == title else "updated"
                put = self.writer.put([{"id": name, "title": title}], self.vectors[name, title][None])
                results.append((put, status))
        assert [result.result().statuses for result, _ in results] == [(status,) for _, status in results]

    def search(self, count: int) -> None:
        self.catalog.refresh()
        queries = self.queries[self.chance.sample(range(len(self.queries)), count)]
        k = self.chance.choice([1, 3, 10, 50])
        exact = {item_key(name): self.vectors[name, title] for name, title in self.titles.items()}
        for query, hits in zip(queries, self.catalog.search(queries, k), strict=True):
            best = sorted((float(query @ vector) for vector in exact.values()), reverse=True)[:k]
            assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-5)
            assert [float(query @ exact[hit.key]) for hit in hits] == pytest.approx(best, abs=1e-5)
            assert len({hit.key for hit in hits}) == len(hits)

    def fetch(self) -> None:
        self.catalog.refresh()
        name = self.chance.choice(self.ids)
        item = self.catalog.item(name, ("title",))
        assert (item and item["title"]) == self.titles.get(name)

    def compact(self) -> None:
        ProductTable(self.path, to_disk=no_sync).compact(NOW)
        self.snapshots = {}

    def reopen(self) -> None:
        self.close()
        self.open()

    def rebuild(self) -> None:
        index_of(ProductTable(self.path), self.index, self.chance.choice([1, 2, 3]))

    def remember(self) -> None:
        self.snapshots[ProductTable(self.path).version] = dict(self.titles)

    def restore(self) -> None:
        if self.snapshots:
            version = self.chance.choice(list(self.snapshots))
            ProductTable(self.path, version, to_disk=no_sync).restore()
            self.titles = dict(self.snapshots[version])


@pytest.mark.slow
def test_random_operations_match_exact_scan(tmp_path):
    """R4: no result differs from the oracle's."""
    seed = int(os.environ.get("GALLERIA_SEED", str(time.time_ns() % 10**6)))
    life = Life(tmp_path, seed)
    rare = [life.compact, life.reopen, life.rebuild, life.remember, life.restore, life.fetch]
    done = 0
    try:
        while done < OPERATIONS:
            writes, searches = life.chance.randint(0, 40), life.chance.randint(0, 20)
            life.write(writes)
            if searches:
                life.search(searches)
            done += writes + searches + 1
            if life.chance.random() < 0.3:
                life.chance.choice(rare)()
    except AssertionError as error:
        raise AssertionError(f"after {done} operations of GALLERIA_SEED={seed}: {error}") from error
    finally:
        life.close()
