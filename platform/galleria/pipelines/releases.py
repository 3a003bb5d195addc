"""A folder of published releases, and the aliases by which services call them.

A release is a bundle that passed its gates, with the table and the index that belong to it where it searches. It never
changes. An alias names the release that a service uses, and perhaps another that a share of its requests tries out::

    releases/shoes/3/release.json  releases/shoes/3/bundle/
    aliases/search.json
"""

import datetime
import json
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError, model_validator

from galleria.catalog.state import open_table
from galleria.deprecation import rename_deprecated
from galleria.durable import Sync, make_folder, move_folder, sync, write_atomically
from galleria.errors import ConfigurationError, StorageError
from galleria.files import absolute
from galleria.index.base import open_build
from galleria.learn.bundle_manifest import read_bundle_manifest, read_json
from galleria.learn.recipe import Frozen

RELEASES = "releases"
ALIASES = "aliases"
RELEASE = "release.json"
BUNDLE = "bundle"
NAME = r"[a-z0-9_-]{1,64}"

AliasName = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
ReleaseId = Annotated[str, StringConstraints(pattern=rf"^{NAME}@[1-9][0-9]{{0,8}}$")]
"""Name and version, such as "shoes@3"."""


class Release(Frozen):
    """A published bundle and what belongs to it: contents of `release.json`.

    Attributes:
        name: of the line of releases.
        version: 1 for the first of the name.
        family: of the bundle.
        hash: of the bundle.
        table: product table; empty where the model does not search.
        index: of the table.
        metrics: scores that the bundle was saved with.
        published: when, in UTC.
    """

    name: str
    version: int
    family: str
    hash: str
    table: str = ""
    index: str = ""
    metrics: Mapping[str, float]
    published: str

    @property
    def id(self) -> str:
        """Name and version."""
        return f"{self.name}@{self.version}"


class Alias(Frozen):
    """The release that an alias resolves to, and perhaps a canary that gets a fraction of the requests."""

    release: ReleaseId = Field(description="name and version of a release", examples=["shoes@4"])
    canary: ReleaseId | None = Field(
        None,
        description="release that gets a fraction of the requests instead; every write goes to both",
        examples=["shoes@5"],
    )
    canary_weight: float = Field(
        0, ge=0, le=1, description="fraction of the requests that the canary gets; with 0 it gets the writes alone"
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        return rename_deprecated(values, {"share": "canary_weight"})

    @model_validator(mode="after")
    def _check_canary_weight(self) -> "Alias":
        weighted = "canary_weight" in self.model_fields_set if self.canary else self.canary_weight > 0
        if weighted != (self.canary is not None):
            raise ValueError("canary and canary_weight go together: give both, or none")
        return self

    @property
    def releases(self) -> tuple[str, ...]:
        """Ids of all releases that it resolves to, the main one first."""
        return (self.release,) if self.canary is None else (self.release, self.canary)


def publish(
    folder: Path,
    name: str,
    bundle: Path,
    table: str = "",
    index: str = "",
    gates: Sequence[str] = (),
    to_disk: Sync = sync,
) -> Release:
    """Publish a bundle as the next release of a name, whole or not at all, durably.

    Args:
        folder: of releases.
        name: of the line of releases.
        bundle: is copied.
        table: product table that the bundle embedded; stays where it is, since it goes on changing.
        index: of the table; stays too.
        gates: conditions on the bundle's metrics, such as "R@1>=0.5".
        to_disk: syncs a file or a folder.

    Raises:
        ConfigurationError: the bundle misses a gate, or a name, a gate or a path cannot be used.
        GalleriaError: bundle, table and index are missing, damaged, or do not belong together.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigurationError(f"a release is named by small letters, digits, - and _, not {name!r}: choose another")
    if bool(table) != bool(index):
        raise ConfigurationError("table and index go together: give both, or none")
    bundle_hash = str(read_bundle_manifest(bundle)["hash"])
    metrics = {key: float(score["value"]) for key, score in read_json(bundle / "metrics.json").items()}
    for gate in gates:
        _check_gate(gate, metrics, bundle)
    if table:
        open_table(table, bundle_hash)
        open_build(index, bundle_hash, shards=())
    make_folder(folder / RELEASES / name, to_disk)
    staging = folder / RELEASES / name / f".{uuid.uuid4().hex}"
    staging.mkdir()
    try:
        shutil.copytree(bundle, staging / BUNDLE)
        while True:
            release = Release(
                name=name,
                version=max(_versions(folder, name), default=0) + 1,
                family=str(read_json(bundle / "config.json")["family"]),
                hash=bundle_hash,
                table=absolute(table),
                index=absolute(index),
                metrics=metrics,
                published=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            )
            (staging / RELEASE).write_text(release.model_dump_json(indent=1) + "\n")
            try:
                move_folder(staging, staging.with_name(str(release.version)), to_disk)
            except OSError:
                if not staging.with_name(str(release.version)).exists():
                    raise
                continue  # another process has just published this version
            return release
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_release(folder: Path, release: str) -> Release:
    """Read a release by its id.

    Raises:
        ConfigurationError: there is none, or it is damaged.
        StorageError: the folder cannot be read.
    """
    name, _, version = release.partition("@")
    try:
        return Release.model_validate_json(_read(folder, folder / RELEASES / name / version / RELEASE))
    except FileNotFoundError as error:
        known = ", ".join(f"{name}@{number}" for number in sorted(_versions(folder, name))) or "none"
        raise ConfigurationError(
            f"there is no release {release!r} in {folder}; of this name there is {known}"
        ) from error
    except ValidationError as error:
        raise ConfigurationError(
            f"release {release!r} in {folder} cannot be read ({error}): publish it again"
        ) from error


def bundle_of(folder: Path, release: Release) -> Path:
    """Return the folder of a release's bundle."""
    return folder / RELEASES / release.name / str(release.version) / BUNDLE


def read_aliases(folder: Path) -> dict[str, Alias]:
    """Read all aliases, by name.

    Raises:
        ConfigurationError: one is damaged.
        StorageError: the folder cannot be read.
    """
    names = sorted(file.stem for file in (folder / ALIASES).glob("*.json"))
    return {name: alias for name in names if (alias := read_alias(folder, name)) is not None}


def read_alias(folder: Path, name: str) -> Alias | None:
    """Read one alias; None if it does not exist.

    Raises:
        ConfigurationError: it is damaged.
        StorageError: the folder cannot be read.
    """
    file = folder / ALIASES / f"{name}.json"
    try:
        return Alias.model_validate_json(_read(folder, file))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ConfigurationError(f"alias {file} cannot be read ({error}): set it again") from error


def write_alias(folder: Path, name: str, alias: Alias, to_disk: Sync = sync) -> None:
    """Point an alias at a release, durably. Running services follow.

    Raises:
        ConfigurationError: the name cannot be used, or a release does not exist.
        StorageError: the folder cannot be read or written.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigurationError(f"an alias is named by small letters, digits, - and _, not {name!r}: choose another")
    for release in alias.releases:
        read_release(folder, release)
    content = json.dumps(alias.model_dump(exclude_none=True)) + "\n"
    try:
        make_folder(folder / ALIASES, to_disk)
        write_atomically(folder / ALIASES / f"{name}.json", content.encode(), to_disk)
    except OSError as error:
        raise StorageError(f"alias {name!r} in {folder} cannot be written ({error}): try again") from error


def _read(folder: Path, file: Path) -> bytes:
    """Read a file of a folder of releases.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the folder cannot be read, or is not there.
    """
    try:
        return file.read_bytes()
    except FileNotFoundError:
        if folder.is_dir():
            raise
        raise StorageError(f"there is no folder {folder}: check its path, or mount it again") from None
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({error}): try again") from error


def _check_gate(gate: str, metrics: Mapping[str, float], bundle: Path) -> None:
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=)\s*([-+.\deE]+)\s*", gate)
    try:
        name, relation, limit = match.groups() if match else ("", "", "")
        bound = float(limit)
    except ValueError as error:
        raise ConfigurationError(f"gate {gate!r} is not a valid condition: write one like 'R@1>=0.5'") from error
    if name not in metrics:
        raise ConfigurationError(
            f"bundle {bundle} has no score {name!r}: it has {', '.join(sorted(metrics)) or 'none'}"
        )
    if not (metrics[name] >= bound if relation == ">=" else metrics[name] <= bound):
        raise ConfigurationError(
            f"bundle {bundle} misses its gate {gate!r}: {name} is {metrics[name]:.4g}; not published"
        )


def _versions(folder: Path, name: str) -> list[int]:
    releases = folder / RELEASES / name
    return [int(path.name) for path in releases.iterdir() if path.name.isdigit()] if releases.is_dir() else []
