"""A data set's folder as its readers see it: names, texts, and the paths that rows hold."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow.fs

from galleria.errors import DataError
from galleria.pipelines.splits import split_of


@dataclass(frozen=True)
class Tree:
    """A folder.

    Attributes:
        files: its file system.
        inside: its path in it.
        root: begins the paths in rows.
    """

    files: pyarrow.fs.FileSystem
    inside: str
    root: str

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the files and folders directly in it."""
        selector = pyarrow.fs.FileSelector(self.inside, allow_not_found=True)
        return frozenset(entry.base_name for entry in self.files.get_file_info(selector))

    def has(self, name: str) -> bool:
        """Return whether there is a file or folder of a relative path."""
        return bool(self.files.get_file_info(f"{self.inside}/{name}").type != pyarrow.fs.FileType.NotFound)

    def below(self, name: str = "") -> list[str]:
        """Return the relative paths of all files below a folder, sorted."""
        folder = f"{self.inside}/{name}".rstrip("/")
        selector = pyarrow.fs.FileSelector(folder, recursive=True, allow_not_found=True)
        entries = self.files.get_file_info(selector)
        return sorted(entry.path[len(self.inside) :].lstrip("/") for entry in entries if entry.is_file)

    def sub(self, name: str) -> "Tree":
        """Return a folder in it."""
        return Tree(self.files, f"{self.inside}/{name}", f"{self.root}/{name}")

    def path(self, name: str) -> str:
        """Return the path of a file as rows hold it."""
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            DataError: it is missing or cannot be read.
        """
        try:
            with self.files.open_input_stream(f"{self.inside}/{name}") as stream:
                return bytes(stream.read())
        except OSError as error:
            raise DataError(f"{self.path(name)} cannot be read ({error}): complete the data set") from error

    def table(self, name: str, fields: int, skip: int = 0) -> Iterator[list[str]]:
        """Yield the fields of each line, which white space separates; the last field may hold spaces.

        Raises:
            DataError: a line has fewer.
        """
        for number, line in enumerate(self.read(name).decode(errors="replace").splitlines(), 1):
            if number <= skip or not line.strip():
                continue
            cells = line.split(None, fields - 1)
            if len(cells) < fields:
                raise DataError(
                    f"line {number} of {self.path(name)} has {len(cells)} fields, not {fields}: restore the file"
                )
            yield [cell.strip() for cell in cells]

    def json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            DataError: it is not valid JSON.
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise DataError(f"{self.path(name)} is not valid JSON ({error}): restore the file") from error


def official(split: str, product: str) -> str:
    """Return the split of a row in a data set without a validation split: a tenth of the products of "train" are."""
    return "validation" if split == "train" and split_of(product) == "validation" else split
