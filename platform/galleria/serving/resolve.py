"""What a service offers: bundles, tables and indexes that are whole and belong together; anything else is refused."""

import logging
from pathlib import Path
from typing import NamedTuple

from galleria.catalog.live import open_table
from galleria.catalog.table import ProductTable
from galleria.errors import BundleError, ConfigurationError, GalleriaError
from galleria.index.base import open_build
from galleria.learn.bundle_manifest import UNREADABLE, read_bundle_manifest, read_json
from galleria.pipelines.releases import Alias, bundle_of, read_alias, read_aliases, read_release
from galleria.serving.config import SEARCH, BundleLocation, CatalogLocation, ServiceConfig
from galleria.serving.schemas.responses import ModelVersion

logger = logging.getLogger("ray.serve")


class ReleaseRef(NamedTuple):
    """A bundle, and what it searches."""

    model: ModelVersion
    bundle: BundleLocation
    catalog: CatalogLocation | None


class ResolvedAlias(NamedTuple):
    """What a model's name stands for; `canary` answers a share of the requests."""

    main: ReleaseRef
    canary: ReleaseRef | None = None
    canary_weight: float = 0.0

    @property
    def offers(self) -> tuple[ReleaseRef, ...]:
        """Whatever may answer."""
        return (self.main,) if self.canary is None else (self.main, self.canary)


def check_fit(config: ServiceConfig) -> dict[str, ResolvedAlias]:
    """What the names of all models stand for, once all is known to be whole and to belong together. Needs no torch.

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
        return {name: choose(config, name, alias) for name, alias in aliases.items()}
    choices = {name: ResolvedAlias(_offer(path)) for name, path in config.models.items()}
    if config.bundle:
        search = _offer(config.bundle, config.table, config.index)
        _check_catalog(search, config.writable)
        choices = {SEARCH: ResolvedAlias(search), **choices}
    return choices


def in_use(config: ServiceConfig, name: str, started: ResolvedAlias) -> ResolvedAlias:
    """What a name stands for by now: a replica may start long after its service, when another release is in use.

    Args:
        config: of the service.
        name: of a model.
        started: what the name stood for when the service was started; holds where the alias cannot be used.
    """
    if not config.releases:
        return started
    try:
        alias = read_alias(Path(config.releases), name)
        return started if alias is None else choose(config, name, alias)
    except GalleriaError as error:
        logger.error("alias %s is not followed, %s goes on: %s", name, started.main.model.release, error)
        return started


def choose(config: ServiceConfig, name: str, alias: Alias) -> ResolvedAlias:
    """What an alias stands for. Raises as `check_fit`."""
    main = _released(config, name, alias.release)
    return ResolvedAlias(main, _released(config, name, alias.canary) if alias.canary else None, alias.canary_weight)


def _released(config: ServiceConfig, name: str, release_id: str) -> ReleaseRef:
    folder = Path(config.releases)
    release = read_release(folder, release_id)
    if (name == SEARCH) != bool(release.table):
        needs = "needs a release with a table and an index" if name == SEARCH else "takes one without table and index"
        raise ConfigurationError(f"the alias {name!r} {needs}, and {release_id} is not: publish another")
    offer = _offer(str(bundle_of(folder, release)), release.table, release.index, release_id)
    if offer.bundle.hash != release.hash:
        raise BundleError(f"release {release_id}: its bundle is another than the one published: publish it again")
    if offer.catalog is not None:
        _check_catalog(offer, config.writable)
    return offer


def _offer(bundle: str, table: str = "", index: str = "", release: str | None = None) -> ReleaseRef:
    bundle_hash = str(read_bundle_manifest(Path(bundle))["hash"])
    try:
        family = str(read_json(Path(bundle) / "config.json")["family"])
    except UNREADABLE as error:
        raise BundleError(f"bundle {bundle}: config.json cannot be read ({error}): copy the bundle again") from error
    model = ModelVersion(family=family, hash=bundle_hash, release=release)
    return ReleaseRef(
        model, BundleLocation(bundle, bundle_hash), CatalogLocation(table, index, bundle_hash) if table else None
    )


def _check_catalog(offer: ReleaseRef, writable: bool) -> None:
    assert offer.catalog is not None
    place = offer.catalog
    if writable:
        ProductTable.recover(place.table)  # first of all: after a loss of power readers need it too
    open_table(place.table, place.bundle_hash)
    open_build(place.index, place.bundle_hash, shards=())
