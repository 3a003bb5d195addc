"""What was acknowledged survives: a kill, a loss of power, a full disk, and any order of operations."""

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

from galleria.catalog.items import item_key
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.catalog.writer import CatalogWriter
from galleria.errors import CatalogFullError
from tests.catalog.spawner import IDS, item, vector
from tests.catalog.tables import HASH, held, index_of, made, rows, unit
from tests.soak import SOAK

KILLS = 20 * SOAK
POWER_LOSSES = 60 * SOAK
COMMITS = 20 + 5 * SOAK
OPERATIONS = 2_000 * SOAK
NOW = timedelta(0)


class Expected:
    """What a table may hold: the value that was acknowledged last, or one asked for since; None is no item."""

    def __init__(self) -> None:
        self.values: dict[str, list[str | None]] = {name: [None] for name in IDS}
        self._asked: dict[Any, dict[str, int]] = {}

    def ask(self, number: Any, names: list[str], title: str | None) -> None:
        self._asked[number] = {}
        for name in names:
            self.values[name].append(title)
            self._asked[number][name] = len(self.values[name]) - 1

    def acknowledge(self, number: Any) -> None:
        for name, place in self._asked.pop(number).items():
            self.values[name][:place] = [self.values[name][place]] * place

    def check(self, table: ProductTable) -> None:
        """All that was acknowledged is there, nothing else is, and rows are whole."""
        found = {}
        for batch in table.items(("id", "key", "title", "image", "attributes", "embedding")):
            for row in batch.to_pylist():
                title = row["title"]
                found[row["id"]] = title
                assert row["key"] == item_key(row["id"])
                assert row["image"] == title.encode() * 20
                assert json.loads(row["attributes"]) == {"title": title}
                assert row["embedding"] == vector(title).tolist()
        assert set(found) <= set(IDS)
        for name in IDS:
            assert found.get(name) in self.values[name], name

    def settle(self, table: ProductTable) -> None:
        """Go on from what a table holds."""
        found = held(table)
        self.values = {name: [found.get(name)] for name in IDS}
        self._asked = {}


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


def killed(spawner: subprocess.Popen[bytes], seed: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """The lines of a writer that is killed at a random point."""
    spawner.stdin.write(f"{seed}\n".encode())
    spawner.stdin.flush()
    child = None
    left = chance.randint(1, 40)
    for line in spawner.stdout:
        said = json.loads(line)
        child = said.get("started", child)
        if "ended" in said:
            return
        left -= 1
        if left <= 0 and child is not None:
            time.sleep(chance.random() * 0.01)
            os.kill(child, signal.SIGKILL)
            left = 10**9
        yield said


@pytest.mark.slow
def test_acknowledged_writes_survive_kills(tmp_path, spawner):
    made(tmp_path / "t")
    expected = Expected()
    acknowledged = 0
    for seed in range(KILLS):
        for said in killed(spawner, seed, random.Random(seed)):
            if "asked" in said:
                expected.ask(said["asked"], said["names"], said["title"])
            elif "acknowledged" in said:
                expected.acknowledge(said["acknowledged"])
                acknowledged += 1
        table = ProductTable.recover(tmp_path / "t")
        expected.check(table)
        expected.settle(table)
    assert acknowledged > KILLS
    assert list(tmp_path.glob("t/_versions/*.torn")) == []


class Disk:
    """Records what a disk was told to keep, and what else it could have kept by then.

    Every event holds the content of a file or the names in a folder as they were told, and all files that there were.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[tuple[str, Any, Any, Any]] = []
        self._contents: dict[tuple[Path, float, int], bytes] = {}

    def __call__(self, path: Path) -> None:
        told = frozenset(child.name for child in path.iterdir()) if path.is_dir() else path.read_bytes()
        self.events.append(("sync", path, told, self._all()))

    def say(self, kind: str, *what: Any) -> None:
        self.events.append((kind, what, None, None))

    def _all(self) -> dict[Path, bytes]:
        """Files with their contents; each content is kept once."""
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                stat = path.stat()
                key = (path, stat.st_mtime_ns, stat.st_size)
                if key not in self._contents:
                    self._contents[key] = path.read_bytes()
                found[path] = self._contents[key]
        return found


def after_power_loss(events: list[Any], root: Path, left: str) -> dict[Path, bytes]:
    """What a disk holds after these events; of what it was not told to keep, all is `left` so."""
    contents: dict[Path, bytes] = {}
    names: dict[Path, frozenset[str]] = {}
    there: dict[Path, bytes] = {}
    for kind, path, told, files in events:
        if kind != "sync":
            continue
        there = files
        if isinstance(told, bytes):
            contents[path] = told
        else:
            names[path] = told

    def named(path: Path) -> bool:
        return path == root.parent or (path.name in names.get(path.parent, ()) and named(path.parent))

    share = {"nothing": 0.0, "empty": 0.0, "half": 0.5, "whole": 1.0}[left]

    kept = {path: contents.get(path) for path in contents.keys() | there.keys() if named(path)}
    if left != "nothing":
        kept |= {path: contents.get(path) for path in there}
    for path, content in kept.items():
        if content is None:
            found = there.get(path, b"")
            kept[path] = found[: int(share * len(found))]
    return kept


def recorded(root: Path, commits: int) -> list[Any]:
    """The events of a writer's life, with other handles that compact and write in between."""
    disk = Disk(root)
    chance = random.Random(0)
    made_table = ProductTable.create(root, made(root.parent / "other").schema, to_disk=disk)
    disk.say("made")
    writer = CatalogWriter(made_table.path, to_disk=disk)

    def write() -> None:
        number = len(disk.events)
        names = chance.sample(IDS, 2)
        title = None if chance.random() < 0.3 else f"{number}"
        disk.say("asked", number, names, title)
        if title is None:
            writer.delete(names).result()
        else:
            writer.put([item(name, title) for name in names], np.stack([vector(title)] * 2)).result()
        disk.say("acknowledged", number)

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
    root = tmp_path / "t"
    events = recorded(root, COMMITS)
    chance = random.Random(1)
    variants = ("nothing", "empty", "half", "whole")
    for trial in range(POWER_LOSSES):
        length = chance.randint(1, len(events))
        left = variants[trial % len(variants)]
        place = tmp_path / f"after-{trial}"
        expected, there = Expected(), False
        for kind, what, _, _ in events[:length]:
            if kind == "asked":
                expected.ask(*what)
            elif kind == "acknowledged":
                expected.acknowledge(*what)
            there |= kind == "made"
        if not there:
            continue
        for path, content in after_power_loss(events[:length], root, left).items():
            file = place / path.relative_to(root)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        try:
            table = ProductTable.recover(place)
            expected.check(table)
            if trial % 10 == 0:
                after = held(table) | {"item 0": "after"}
                assert held(table.append(rows("item 0", title="after")).compact(NOW)) == after
        except Exception as error:
            raise AssertionError(f"after {length} events, the rest left {left}: {error}") from error


@pytest.mark.parametrize("content", [b"", b'{"ver', b'{"version":1}', b'{"version":999}', b"\0" * 13])
def test_recover_ignores_version_hint(tmp_path, content):
    made(tmp_path / "t", rows("a"), rows("b"))
    (tmp_path / "t" / "_versions" / "latest_version_hint.json").write_bytes(content)

    for opened in (ProductTable(tmp_path / "t"), ProductTable.recover(tmp_path / "t")):
        assert (opened.version, opened.newest) == (3, 3)
    assert opened.append(rows("c")).version == 4


def manifests(path: Path) -> list[Path]:
    """Newest first."""
    return sorted((path / "_versions").glob("*.manifest"))


@pytest.mark.parametrize("cut", [0, 1, 16, 0.5, -1])
def test_recover_renames_truncated_manifest(tmp_path, cut, caplog):
    made(tmp_path / "t", rows("a"), rows("b"))
    newest = manifests(tmp_path / "t")[0]
    content = newest.read_bytes()
    newest.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else cut])

    table = ProductTable.recover(tmp_path / "t")

    assert (table.version, list(held(table))) == (2, ["a"])
    assert "cut short before it was acknowledged" in caplog.text
    assert (table.append(rows("c")).version, ProductTable(tmp_path / "t").version) == (3, 3)


def test_recover_renames_zeroed_manifest(tmp_path):
    made(tmp_path / "t", rows("a"), rows("b"))
    newest = manifests(tmp_path / "t")[0]
    content = newest.read_bytes()
    for start in range(0, len(content) - 16, 200):
        newest.write_bytes(content[:start] + bytes(200) + content[start + 200 :])
        table = ProductTable.recover(tmp_path / "t")
        assert table.version == 2 or list(held(table)) != []
        newest.with_name(newest.name + ".torn").unlink(missing_ok=True)


def test_recover_skips_torn_older_manifest(tmp_path):
    made(tmp_path / "t", rows("a"), rows("b"), rows("c"))
    manifests(tmp_path / "t")[1].write_bytes(b"torn")

    table = ProductTable.recover(tmp_path / "t")

    assert sorted(held(table)) == ["a", "b", "c"]
    assert [version for version, _ in table.versions()] == [1, 2, 4]
    assert sorted(held(table.compact(NOW))) == ["a", "b", "c"]


def test_recover_leaves_intact_table_unchanged(tmp_path):
    made(tmp_path / "t", rows("a"), rows("b"))
    before = {path: path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file()}

    ProductTable.recover(tmp_path / "t")

    assert {path: path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file()} == before


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    told = subprocess.run(mount, capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.skip(f"this user may not mount a small disk: {told.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_full_disk_rejects_writes_until_freed(tmp_path, small_disk):
    table = made(small_disk / "t", rows("first"))
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
    assert set(held(ProductTable(small_disk / "t"))) == written
    assert len(catalog.search(unit(1), 99)[0]) == 1
    catalog.refresh()
    assert len(catalog.search(unit(1), 99)[0]) == len(written)
    ballast.unlink()
    assert writer.put([{"id": "after", "title": "after"}], unit(1)).result().statuses == ("created",)
    assert set(held(ProductTable.recover(small_disk / "t"))) == written | {"after"}
    writer.close()


def forgetful(path: Path) -> None:
    """A disk that is told nothing: no power is lost here."""


class Life:
    """A catalogue beside an oracle: titles by id; an id with a title has one vector."""

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
        self.held: dict[str, str] = {}
        self.snapshots: dict[int, dict[str, str]] = {}
        self.path, self.index = folder / "t", folder / "index"
        index_of(made(self.path, dimension=8), self.index)
        self.open()

    def open(self) -> None:
        self.writer = CatalogWriter(self.path, to_disk=forgetful)
        self.catalog = LiveCatalog(self.path, self.index, HASH)

    def close(self) -> None:
        self.writer.close()
        self.catalog.close()

    def write(self, count: int) -> None:
        """Puts and deletions that are asked for at once."""
        answers = []
        for _ in range(count):
            name, title = self.chance.choice(self.ids), self.chance.choice("uvw")
            before = self.held.get(name)
            if self.chance.random() < 0.35:
                self.held.pop(name, None)
                answers.append((self.writer.delete([name]), "deleted" if before else "absent"))
            else:
                self.held[name] = title
                status = "created" if before is None else "unchanged" if before == title else "updated"
                put = self.writer.put([{"id": name, "title": title}], self.vectors[name, title][None])
                answers.append((put, status))
        assert [answer.result().statuses for answer, _ in answers] == [(status,) for _, status in answers]

    def search(self, count: int) -> None:
        self.catalog.refresh()
        queries = self.queries[self.chance.sample(range(len(self.queries)), count)]
        k = self.chance.choice([1, 3, 10, 50])
        exact = {item_key(name): self.vectors[name, title] for name, title in self.held.items()}
        for query, answer in zip(queries, self.catalog.search(queries, k), strict=True):
            best = sorted((float(query @ held) for held in exact.values()), reverse=True)[:k]
            assert [one.score for one in answer] == pytest.approx(best, abs=1e-5)
            assert [float(query @ exact[one.key]) for one in answer] == pytest.approx(best, abs=1e-5)
            assert len({one.key for one in answer}) == len(answer)

    def fetch(self) -> None:
        self.catalog.refresh()
        name = self.chance.choice(self.ids)
        found = self.catalog.item(name, ("title",))
        assert (found and found["title"]) == self.held.get(name)

    def compact(self) -> None:
        ProductTable(self.path, to_disk=forgetful).compact(NOW)
        self.snapshots = {}

    def reopen(self) -> None:
        self.close()
        self.open()

    def rebuild(self) -> None:
        index_of(ProductTable(self.path), self.index, self.chance.choice([1, 2, 3]))

    def remember(self) -> None:
        self.snapshots[ProductTable(self.path).version] = dict(self.held)

    def restore(self) -> None:
        if self.snapshots:
            version = self.chance.choice(list(self.snapshots))
            ProductTable(self.path, version, to_disk=forgetful).restore()
            self.held = dict(self.snapshots[version])


@pytest.mark.slow
def test_random_operations_match_exact_scan(tmp_path):
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
