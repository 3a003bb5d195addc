"""Refuses to start with bundles, a table and an index that are not whole or do not belong together."""

import json
from pathlib import Path

from galleria.catalog.table import ProductTable
from galleria.errors import BundleError
from galleria.index.shard import Shard
from galleria.learn.bundle_manifest import read_bundle_manifest
from galleria.serving.schemas import SEARCH, ModelName, ServiceArguments


def check_fit(arguments: ServiceArguments) -> dict[str, ModelName]:
    """The names of all models' bundles, once all is known to be whole and to belong together. Needs no torch.

    Raises:
        DataError: there is no table.
        BundleError: a bundle is not one, is damaged, or did not make the table's vectors.
        IndexDamagedError: the index is damaged, or belongs to another bundle or version of the table.
    """
    models = {name: _check_bundle(Path(path)) for name, path in arguments.bundles.items()}
    if SEARCH in models:
        bundle_hash = models[SEARCH].hash
        Shard(arguments.index, bundle_hash, open_table(arguments.table, bundle_hash).version)
    return models


def open_table(path: str, bundle_hash: str) -> ProductTable:
    """The newest version of a table.

    Raises:
        DataError: there is no table.
        BundleError: its vectors were made with another bundle.
    """
    table = ProductTable(path)
    if table.bundle_hash != bundle_hash:
        raise BundleError(
            f"the vectors of {path} were made with bundle {table.bundle_hash[:12] or '(unknown)'}, but the bundle in "
            f"use is {bundle_hash[:12]}: run 'galleria embed' and 'galleria index' again"
        )
    return table


def _check_bundle(bundle: Path) -> ModelName:
    bundle_hash = str(read_bundle_manifest(bundle)["hash"])
    try:
        family = json.loads((bundle / "config.json").read_text())["family"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"bundle {bundle}: config.json cannot be read ({error}): copy the bundle again") from error
    return ModelName(family=str(family), hash=bundle_hash)
