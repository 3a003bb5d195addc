"""Files and folders are replaced as a whole, and are on the disk afterwards."""

import pytest

from galleria.durable import make_folder, move_folder, replace_folder, sync, write_atomically


def folder(path, content):
    path.mkdir()
    (path / "file").write_text(content)
    return path


def names(path):
    return sorted(file.name for file in path.iterdir())


@pytest.fixture
def synced():
    """Names of the files and folders that were synced, in order."""
    return []


@pytest.fixture
def to_disk(synced, tmp_path):
    def record(path):
        synced.append((str(path.relative_to(tmp_path)), names(tmp_path)))
        sync(path)

    return record


class TestWriteAtomically:
    def test_creates_a_file(self, tmp_path):
        write_atomically(tmp_path / "a.json", b"new", mode=0o600)

        assert (tmp_path / "a.json").read_bytes() == b"new"
        assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600
        assert names(tmp_path) == ["a.json"]

    def test_replaces_content_and_keeps_permissions(self, tmp_path):
        (tmp_path / "a.json").write_bytes(b"old")
        (tmp_path / "a.json").chmod(0o640)

        write_atomically(tmp_path / "a.json", b"new", mode=0o600)

        assert (tmp_path / "a.json").read_bytes() == b"new"
        assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640

    def test_follows_a_link(self, tmp_path):
        (tmp_path / "a.json").write_bytes(b"old")
        (tmp_path / "link").symlink_to("a.json")

        write_atomically(tmp_path / "link", b"new")

        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "a.json").read_bytes() == b"new"

    def test_syncs_file_before_name(self, tmp_path, to_disk, synced):
        write_atomically(tmp_path / "a.json", b"new", to_disk)

        (temporary, before), (parent, after) = synced
        assert before == [temporary] and temporary.startswith(".a.json-")
        assert (parent, after) == (".", ["a.json"])

    def test_failure_keeps_old_content(self, tmp_path):
        (tmp_path / "a.json").write_bytes(b"old")

        def fail(path):
            raise OSError("No space left")

        with pytest.raises(OSError, match="No space left"):
            write_atomically(tmp_path / "a.json", b"new", fail)

        assert (tmp_path / "a.json").read_bytes() == b"old"
        assert names(tmp_path) == ["a.json"]


class TestMakeFolder:
    def test_syncs_every_new_name(self, tmp_path, to_disk, synced):
        make_folder(tmp_path / "a" / "b", to_disk)
        make_folder(tmp_path / "a" / "b", to_disk)

        assert (tmp_path / "a" / "b").is_dir()
        assert [path for path, _ in synced] == [".", "a"]


class TestMoveFolder:
    def test_syncs_content_before_name(self, tmp_path, to_disk, synced):
        move_folder(folder(tmp_path / "new", "new"), tmp_path / "path", to_disk)

        assert (tmp_path / "path" / "file").read_text() == "new"
        assert synced == [("new/file", ["new"]), ("new", ["new"]), (".", ["path"])]

    def test_does_not_replace_a_folder(self, tmp_path):
        folder(tmp_path / "path", "old")

        with pytest.raises(OSError, match="not empty"):
            move_folder(folder(tmp_path / "new", "new"), tmp_path / "path")

        assert (tmp_path / "path" / "file").read_text() == "old"


class TestReplaceFolder:
    def test_moves_to_a_free_path(self, tmp_path, to_disk, synced):
        replace_folder(folder(tmp_path / "new", "new"), tmp_path / "path", to_disk)

        assert (tmp_path / "path" / "file").read_text() == "new"
        assert [path.name for path in tmp_path.iterdir()] == ["path"]
        assert synced == [("new/file", ["new"]), ("new", ["new"]), (".", ["path"])]

    def test_removes_the_old_folder(self, tmp_path):
        folder(tmp_path / "path", "old")

        replace_folder(folder(tmp_path / "new", "new"), tmp_path / "path")

        assert (tmp_path / "path" / "file").read_text() == "new"
        assert [path.name for path in tmp_path.iterdir()] == ["path"]

    def test_failed_move_keeps_the_old_folder(self, tmp_path):
        folder(tmp_path / "path", "old")

        with pytest.raises(FileNotFoundError):
            replace_folder(tmp_path / "missing", tmp_path / "path")

        assert (tmp_path / "path" / "file").read_text() == "old"
