"""The manifest of a bundle. Imports no torch, so that a gateway or a command line can read it at once."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from galleria.errors import BundleError
from galleria.files import sha256

FORMAT = 1
MANIFEST = "manifest.json"
REQUIRED = ("config.json", "labels.json", "metrics.json", "model.safetensors")
PREPROCESSOR = "preprocessor/"
IDENTITY = ("config.json", "labels.json", "model.safetensors", PREPROCESSOR)
"""Files that decide a bundle's outputs, and so its hash; the card and the metrics do not."""

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError)
"""Errors that reading a damaged description can raise; pydantic's ValidationError is a ValueError."""


def read_bundle_manifest(path: Path) -> dict[str, Any]:
    """Read a bundle's manifest and check every file that it lists: `format`, `files` (sha256 by name) and `hash`.

    Raises:
        BundleError: not a bundle, damaged, or written by a newer version.
    """
    try:
        manifest = read_json(path / MANIFEST)
        version = manifest["format"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format {version!r}")
        if version > FORMAT:
            raise BundleError(f"bundle {path} has format {version}, this galleria reads up to {FORMAT}: upgrade it")
        if not isinstance(manifest["files"], dict) or not set(REQUIRED) <= manifest["files"].keys():
            raise KeyError("files")
        if any("\0" in name for name in manifest["files"]):
            raise ValueError("file names")
        if identity(manifest["files"]) != manifest["hash"]:
            raise BundleError(f"bundle {path}: the manifest does not fit its files: copy the bundle again")
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a bundle (no {MANIFEST}): name the folder that training wrote") from error
    except UNREADABLE as error:
        raise BundleError(f"bundle {path}: {MANIFEST} cannot be read ({error}): copy the bundle again") from error
    for name, expected in manifest["files"].items():
        file = path / name
        if path.resolve() not in file.resolve().parents:
            raise BundleError(f"bundle {path}: {name!r} lies outside the bundle's folder")
        if not file.is_file() or sha256(file) != expected:
            raise BundleError(f"bundle {path}: {name} is missing or damaged: copy the bundle again")
    return dict(manifest)


def identity(files: Mapping[str, str]) -> str:
    """Compute the bundle's hash from the sha256 of its files by name."""
    lines = [f"{name} {digest}" for name, digest in sorted(files.items()) if name.startswith(IDENTITY)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_json(file: Path) -> Any:
    """Read a JSON file as UTF-8, whatever the locale."""
    return json.loads(file.read_bytes())
