"""Resolves model names to bundles, tables and indexes, and checks that these are complete and belong together."""

import logging
from pathlib import Path
from typing import NamedTuple

from galleria.catalog.state import open_table
from galleria.catalog.table import ProductTable
from galleria.errors import BundleError, ConfigurationError, GalleriaError
from galleria.index.base import open_build
from galleria.learn.bundle_manifest import UNREADABLE, read_bundle_manifest, read_json
from galleria.pipelines.releases import Alias, bundle_of, read_alias, read_aliases, read_release
from galleria.serving.config import SEARCH, BundleLocation, CatalogLocation, ServiceConfig
from galleria.serving.schemas.responses import ModelVersion
from galleria.serving.traffic_split import TrafficSplit

logger = logging.getLogger("ray.serve")


class ReleaseRef(NamedTuple):
    """A bundle, and the catalogue that it searches."""

    model: ModelVersion
    bundle: BundleLocation
    catalog: CatalogLocation | None


def resolve_all(config: ServiceConfig) -> dict[str, TrafficSplit[ReleaseRef]]:
    """Resolve the names of all models, after checking that each release is complete and fits. Needs no torch.

    Raises:
        DataError: there is no table.
        BundleError: a bundle is not one, is damaged, or did not make the table's vectors.
        IndexDamagedError: the index is damaged, or belongs to another bundle.
        ConfigurationError: an alias or a release cannot be used.
    """
    if config.releases:
        aliases = read_aliases(Path(config.releases))
        if not aliases:
            raise ConfigurationError(
                f"{config.releases} has no alias: say what is served with 'galleria publish … --alias NAME'"
            )
        return {name: resolve_alias(config, name, alias) for name, alias in aliases.items()}
    models = {name: TrafficSplit(_reference(path)) for name, path in config.models.items()}
    if config.bundle:
        search = _reference(config.bundle, config.table, config.index)
        _check_catalog(search, config.writable)
        models = {SEARCH: TrafficSplit(search), **models}
    return models


def resolve_current(config: ServiceConfig, name: str, started: TrafficSplit[ReleaseRef]) -> TrafficSplit[ReleaseRef]:
    """Resolve a name as of now: a replica may start long after its service, when the alias has changed.

    Args:
        config: of the service.
        name: of a model.
        started: what the name resolved to when the service was started; returned where the alias cannot be used.
    """
    if not config.releases:
        return started
    try:
        alias = read_alias(Path(config.releases), name)
        return started if alias is None else resolve_alias(config, name, alias)
    except GalleriaError as error:
        logger.error("alias %s cannot be used, %s stays in use: %s", name, started.main.model.release, error)
        return started


def resolve_alias(config: ServiceConfig, name: str, alias: Alias) -> TrafficSplit[ReleaseRef]:
    """Resolve an alias. Raises as `resolve_all`."""
    releases = TrafficSplit(alias.release, alias.canary, alias.canary_weight)
    return releases.map(lambda release: _released(config, name, release))


def _released(config: ServiceConfig, name: str, release_id: str) -> ReleaseRef:
    folder = Path(config.releases)
    release = read_release(folder, release_id)
    if (name == SEARCH) != bool(release.table):
        needs = "needs a release with a table and an index" if name == SEARCH else "takes one without table and index"
        raise ConfigurationError(f"the alias {name!r} {needs}, and {release_id} is not: publish another")
    reference = _reference(str(bundle_of(folder, release)), release.table, release.index, release_id)
    if reference.bundle.hash != release.hash:
        raise BundleError(f"release {release_id}: its bundle is another than the one published: publish it again")
    if reference.catalog is not None:
        _check_catalog(reference, config.writable)
    return reference


def _reference(bundle: str, table: str = "", index: str = "", release: str | None = None) -> ReleaseRef:
    bundle_hash = str(read_bundle_manifest(Path(bundle))["hash"])
    try:
        family = str(read_json(Path(bundle) / "config.json")["family"])
    except UNREADABLE as error:
        raise BundleError(f"bundle {bundle}: config.json cannot be read ({error}): copy the bundle again") from error
    model = ModelVersion(family=family, hash=bundle_hash, release=release)
    return ReleaseRef(
        model, BundleLocation(bundle, bundle_hash), CatalogLocation(table, index, bundle_hash) if table else None
    )


def _check_catalog(reference: ReleaseRef, writable: bool) -> None:
    assert reference.catalog is not None
    location = reference.catalog
    if writable:
        ProductTable.recover(location.table)  # first of all: after a loss of power readers need it too
    open_table(location.table, location.bundle_hash)
    open_build(location.index, location.bundle_hash, shards=())
