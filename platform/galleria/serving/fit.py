"""Refuses to start with bundles, a table and an index that are not whole or do not belong together."""

import json
from pathlib import Path

from galleria.catalog.live import open_table
from galleria.catalog.table import ProductTable
from galleria.errors import BundleError
from galleria.index.base import open_build
from galleria.learn.bundle_manifest import read_bundle_manifest
from galleria.serving.answers import ModelName
from galleria.serving.arguments import SEARCH, ServiceArguments


def check_fit(arguments: ServiceArguments) -> dict[str, ModelName]:
    """The names of all models' bundles, once all is known to be whole and to belong together. Needs no torch.

    Raises:
        DataError: there is no table.
        BundleError: a bundle is not one, is damaged, or did not make the table's vectors.
        IndexDamagedError: the index is damaged, or belongs to another bundle.
    """
    models = {name: _check_bundle(Path(path)) for name, path in arguments.bundles.items()}
    if SEARCH in models:
        if arguments.writable:
            ProductTable.recover(arguments.table)  # first of all: after a loss of power readers need it too
        open_table(arguments.table, models[SEARCH].hash)
        open_build(arguments.index, models[SEARCH].hash, shards=())
    return models


def _check_bundle(bundle: Path) -> ModelName:
    bundle_hash = str(read_bundle_manifest(bundle)["hash"])
    try:
        family = json.loads((bundle / "config.json").read_text())["family"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"bundle {bundle}: config.json cannot be read ({error}): copy the bundle again") from error
    return ModelName(family=str(family), hash=bundle_hash)
