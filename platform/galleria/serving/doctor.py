"""Checks a deployment: `galleria doctor`. Changes nothing, and needs neither torch nor a running Ray."""

import functools
import importlib.metadata
import os
import re
import shutil
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from galleria.catalog.table import ProductTable
from galleria.durable import sync_files
from galleria.errors import ConfigurationError, GalleriaError
from galleria.files import is_local
from galleria.index.manifest import current_manifest
from galleria.media.isolated import DecoderPool, Kind
from galleria.pipelines.releases import read_aliases
from galleria.serving.config import SEARCH, CatalogLocation, ServiceConfig
from galleria.serving.http.auth import is_loopback
from galleria.serving.http.keys import Keys, read_keys
from galleria.serving.ingress import check_port_is_free
from galleria.serving.resolve import ReleaseRef, resolve_alias, resolve_all
from galleria.serving.traffic_split import TrafficSplit

Status = Literal["ok", "warning", "failed"]
Split = TrafficSplit[ReleaseRef]

MIN_FREE_BYTES = 1 << 30
"""Free space below which a disk is reported."""

PROBE_TIMEOUT_S = 2.0
RAY_PORTS = {6379: "GCS", 8265: "dashboard", 10001: "client server", 8404: "HAProxy statistics", 9101: "HAProxy"}
"""Ports that Ray uses by default, and what listens on them."""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: of what was checked.
        status: "failed" where the service would not start or a promise would not hold.
        detail: what was found.
        fix: what to do about it.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def check_deployment(
    config: ServiceConfig, host: str, port: int, environment: Mapping[str, str] = os.environ
) -> Iterator[Check]:
    """Yield a line for every check.

    Args:
        config: of the service.
        host: address that it listens on.
        port: port that it listens on.
        environment: that it starts in.
    """
    yield from _versions()
    yield _user()
    yield from _keys(config, host, environment)
    yield _port(host, port)
    splits: dict[str, Split] = {}
    for name, check, split in _models(config):
        yield check
        if split is not None:
            splits[name] = split
    catalogs = [ref.catalog for split in splits.values() for ref in split.all if ref.catalog is not None]
    for catalog in catalogs:
        yield _same_table(catalog)
    yield from _disks(config, catalogs)
    yield from _decoders()
    yield from _ray(environment)


def _versions() -> Iterator[Check]:
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires("galleria") or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        name = f"version of {needed.name}"
        fix = f"pip install '{needed.name}{needed.specifier}'"
        try:
            installed = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "failed", "not installed", fix)
            continue
        if not needed.specifier.contains(installed, prereleases=True):
            yield Check(name, "failed", f"{installed}, needed {needed.specifier}", fix)
        elif needed.name in ("ray", "torch", "faiss-cpu", "pylance", "pyarrow"):
            yield Check(name, "ok", installed)


def _user() -> Check:
    if os.geteuid() == 0:
        return Check(
            "user", "warning", "root", "run the service as a user of its own: decoders of uploads have less rights"
        )
    return Check("user", "ok", f"uid {os.geteuid()}")


def _keys(config: ServiceConfig, host: str, environment: Mapping[str, str]) -> Iterator[Check]:
    try:
        keys = read_keys(config.keys, environment)
    except ConfigurationError as error:
        yield Check("keys", "failed", str(error), f"galleria keys {config.keys} --name NAME --role write")
        return
    if not keys:
        if is_loopback(host) and environment.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
            yield Check("keys", "ok", "none: only this machine is served")
        else:
            fix = "create keys with 'galleria keys FILE --name NAME --role write' and give --keys FILE"
            yield Check("keys", "failed", f"none, and {host} is reached from other machines", fix)
        return
    yield _roles(config, keys)
    if config.keys and (mode := Path(config.keys).stat().st_mode & 0o777) & 0o077:
        yield Check("keys file", "warning", f"mode {mode:o}: other users can read it", f"chmod 600 {config.keys}")
    elif config.keys:
        yield Check("keys file", "ok", f"mode {mode:o}")


def _roles(config: ServiceConfig, keys: Keys) -> Check:
    roles = keys.roles()
    detail = f"{roles.count('read')} to read, {roles.count('write')} to write"
    if not roles:
        return Check(
            "keys", "failed", "the file is empty: nobody is admitted", f"galleria keys {config.keys} --name NAME"
        )
    if config.writable and "write" not in roles:
        return Check("keys", "warning", f"{detail}: nobody may write", "galleria keys FILE --name NAME --role write")
    return Check("keys", "ok", detail)


def _port(host: str, port: int) -> Check:
    name, at = "port", f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        check_port_is_free(host, port)
        return Check(name, "ok", f"{host}:{port} is free")
    except ConfigurationError as error:
        try:
            with urllib.request.urlopen(f"{at}/livez", timeout=PROBE_TIMEOUT_S) as response:
                if response.headers.get("x-request-id"):
                    return Check(name, "ok", f"a service answers at {at}")
        except (OSError, urllib.error.URLError, ValueError):
            pass
        return Check(name, "failed", str(error), "stop what listens there, or choose another --port")


def _models(config: ServiceConfig) -> Iterator[tuple[str, Check, Split | None]]:
    """Resolve each model on its own: hashes of all files, and whether bundle, table and index belong together."""
    reader = config.model_copy(update={"writable": False})  # else an interrupted write would be repaired
    try:
        aliases = read_aliases(Path(config.releases)) if config.releases else {}
    except GalleriaError as error:
        yield "", Check("aliases", "failed", str(error), "set it again with 'galleria publish … --alias NAME'"), None
        return
    if config.releases and not aliases:
        fix = "galleria publish NAME BUNDLE --releases FOLDER --alias NAME"
        yield "", Check("aliases", "failed", f"{config.releases} has none", fix), None
    for name in aliases or [*([SEARCH] if config.bundle else []), *config.models]:
        try:
            if name in aliases:
                split = resolve_alias(reader, name, aliases[name])
            elif name == SEARCH:
                split = resolve_all(reader.model_copy(update={"models": {}}))[name]
            else:
                paths = {"bundle": "", "table": "", "index": "", "models": {name: config.models[name]}}
                split = resolve_all(reader.model_copy(update=paths))[name]
        except GalleriaError as error:
            detail, _, fix = str(error).rpartition(": ")
            yield name, Check(f"model {name}", "failed", detail or fix, fix if detail else ""), None
            continue
        found = ", ".join(f"{ref.model.release or ref.bundle.path} ({ref.bundle.hash[:12]})" for ref in split.all)
        yield name, Check(f"model {name}", "ok", f"{split.main.model.family}: {found}"), split


def _same_table(catalog: CatalogLocation) -> Check:
    name = f"index {catalog.index}"
    manifest = current_manifest(Path(catalog.index))
    table = ProductTable(catalog.table)
    if manifest.table_id != table.table_id:
        return Check(
            name, "warning", f"built for another table than {catalog.table}", "galleria index build TABLE INDEX"
        )
    return Check(name, "ok", f"{manifest.count:,} items of version {manifest.catalog_version}; table {table.version}")


def _disks(config: ServiceConfig, catalogs: list[CatalogLocation]) -> Iterator[Check]:
    written = [path for catalog in catalogs for path in (catalog.table, catalog.index)] + [config.audit]
    paths = {path: config.writable for path in written if path}
    if config.releases:
        paths[config.releases] = False
    for path, writable in paths.items():
        if not is_local(path):
            yield Check(f"storage of {path}", "ok", "an object store: not checked here")
            continue
        folder = Path(path).resolve().parent
        if not folder.is_dir():
            yield Check(f"storage of {path}", "failed", f"{folder} does not exist", f"mkdir -p {folder}")
            continue
        yield check_storage(path, folder, shutil.disk_usage(folder).free, writable)


def check_storage(path: str, folder: Path, free: int, writable: bool) -> Check:
    """Check the folder of a path that the service reads, or writes.

    Args:
        path: of the configuration.
        folder: that contains it.
        free: bytes on its disk.
        writable: whether the service writes there.
    """
    if free < MIN_FREE_BYTES:
        return Check(
            f"storage of {path}", "warning", f"{free / 1e9:.2f} GB are free", "free space, or use a larger disk"
        )
    if writable:
        return _durable(path, folder, free)
    return Check(f"storage of {path}", "ok", f"{free / 1e9:,.0f} GB are free")


def _durable(path: str, folder: Path, free: int) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"\0")
            file.flush()
            sync_files([Path(file.name)])
    except OSError as error:
        fix = "let the service's user write there, on a disk that supports fsync"
        return Check(f"storage of {path}", "failed", f"cannot be written durably ({error.strerror})", fix)
    return Check(f"storage of {path}", "ok", f"{free / 1e9:,.0f} GB are free; fsync works")


@functools.cache  # they take a second to start, and what they may do depends on this machine
def _decoders() -> tuple[Check, ...]:
    return tuple(_decoder_checks())


def _decoder_checks() -> Iterator[Check]:
    kinds: tuple[Kind, ...] = ("image", "video")
    pool = DecoderPool()
    try:
        for kind in kinds:
            try:
                with pool.process(kind) as process:
                    held = process.isolation()
            except (RuntimeError, OSError) as error:
                fix = "see the message above; the service would answer 500 for every upload"
                yield Check(f"decoder of {kind}s", "failed", str(error), fix)
                continue
            if "RLIMIT_NOFILE" not in held or "RLIMIT_AS" not in held:
                yield Check(
                    f"decoder of {kind}s", "warning", f"holds only {', '.join(held)}", "run the service on Linux"
                )
            elif "namespaces" not in held:
                detail = "no files, no sockets, limited memory, but the service's network namespace"
                fix = "allow user namespaces, if your rules do: see SECURITY.md"
                yield Check(f"decoder of {kind}s", "warning" if sys.platform == "linux" else "ok", detail, fix)
            else:
                yield Check(f"decoder of {kind}s", "ok", "no files, no network, limited memory")
    finally:
        pool.close()


def _ray(environment: Mapping[str, str]) -> Iterator[Check]:
    token = environment.get("RAY_AUTH_MODE") == "token"
    if address := environment.get("RAY_ADDRESS"):
        fix = "set RAY_AUTH_MODE=token where Ray and this service start"
        status: Status = "ok" if token else "failed"
        yield Check(
            "Ray's authentication", status, f"cluster {address}: {'token' if token else 'none'}", "" if token else fix
        )
    else:
        yield Check("Ray's authentication", "ok", "the service starts its own Ray, which has a token")
    own = _outside_address()
    exposed = [f"{what} ({port})" for port, what in RAY_PORTS.items() if own and _listens(own, port)]
    if exposed:
        fix = "keep these ports inside the cluster's network, by a firewall"
        detail = f"other machines reach {', '.join(exposed)} on {own}"
        yield Check("Ray's ports", "warning" if token else "failed", detail, fix)
    else:
        yield Check("Ray's ports", "ok", "none of its usual ones is reached from outside")


def _outside_address() -> str:
    """Return this machine's address on its network, or "" without one. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of a network that does not exist
            address = str(probe.getsockname()[0])
        except OSError:
            return ""
    return "" if re.match(r"127\.|0\.", address) else address


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False
