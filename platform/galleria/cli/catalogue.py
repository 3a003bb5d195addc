"""`galleria index …` and `galleria items …`."""

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from galleria.cli.terminal import AsJson, bold, console, print_json
from galleria.errors import ConfigurationError

index = typer.Typer(no_args_is_help=True, help="Build and check search indexes.")
items = typer.Typer(no_args_is_help=True, help="Manage the items of a product table and its versions.")

TablePath = Annotated[Path, typer.Argument(help="Path of a product table.")]
ItemId = Annotated[str, typer.Argument(help="ID of an item.")]


@index.command("build")
def index_build(
    table: TablePath,
    out: Annotated[Path, typer.Option(help="Path of the index to write.")],
    kind: Annotated[str, typer.Option(help="Flat, HNSW32, IVF,Flat, IVF,SQ8, IVF,PQ, or auto.")] = "auto",
    target_recall: Annotated[float, typer.Option(min=0, max=1, help="Minimum recall@10.")] = 0.99,
    max_index_memory: Annotated[str | None, typer.Option(help="Limit in bytes, or such as 500MB or 2GB.")] = None,
    shards: Annotated[int, typer.Option(min=1, help="Number of shards, which are searched independently.")] = 1,
) -> None:
    """Build the search index of a product table; running services switch to it without downtime."""
    from galleria.catalog.table import ProductTable
    from galleria.index.kinds import KINDS, Plan
    from galleria.pipelines.build_index import build_index

    if kind not in ("auto", *KINDS):
        raise ConfigurationError(f"--kind {kind!r} is not one of auto, {'; '.join(KINDS)}")
    plan = Plan(kind=kind, target_recall=target_recall, memory=_bytes(max_index_memory))
    manifest = build_index(ProductTable(table), out, plan, shards)
    _print_index(out, manifest)


@index.command("verify")
def index_verify(
    folder: Annotated[Path, typer.Argument(help="Path of an index.")],
    table: Annotated[Path | None, typer.Option(help="Path of its product table, to count unindexed items.")] = None,
) -> None:
    """Check every byte of an index against its manifest."""
    from galleria.catalog.table import ProductTable
    from galleria.index.base import open_build
    from galleria.index.manifest import current_manifest
    from galleria.pipelines.maintenance import unindexed

    manifest = current_manifest(folder)
    build = open_build(folder, manifest.bundle_hash)
    _print_index(folder, manifest)
    if table is not None:
        behind = unindexed(ProductTable(table), build)
        console().print(f"{behind:,} items of {bold(table)} are not in the index: they are searched exactly")


@items.command("get")
def items_get(table: TablePath, item_id: ItemId) -> None:
    """Print an item as JSON."""
    from galleria.catalog.table import ProductTable

    item = ProductTable(table).item(item_id)
    if item is None:
        raise ConfigurationError(f"{table} has no item {item_id!r}")
    print_json(True, item)


@items.command("delete")
def items_delete(
    table: TablePath, item_id: Annotated[list[str], typer.Argument(help="IDs of the items to delete.")]
) -> None:
    """Delete items; running services stop returning them at once."""
    from galleria.catalog.writer import CatalogWriter

    writer = CatalogWriter(table)
    written = writer.delete(item_id).result()
    writer.close()
    for name, status in zip(item_id, written.statuses, strict=True):
        console().print(f"{name}: {status}", highlight=False, markup=False)


@items.command("versions")
def items_versions(table: TablePath) -> None:
    """List the versions of a table, with the names of snapshots."""
    from galleria.catalog.table import ProductTable

    opened = ProductTable(table)
    names: dict[int, list[str]] = {}
    for name, version in opened.snapshots().items():
        names.setdefault(version, []).append(name)
    for version, created in opened.versions():
        console().print(f"{version}\t{created}\t{' '.join(names.get(version, []))}", highlight=False)


@items.command("snapshot")
def items_snapshot(table: TablePath, name: Annotated[str, typer.Argument(help="Name of the snapshot.")]) -> None:
    """Give the newest version a name; compaction keeps named versions."""
    from galleria.catalog.table import ProductTable

    opened = ProductTable(table)
    opened.snapshot(name)
    console().print(f"version {opened.version} of {bold(table)} is the snapshot {bold(name)}")


@items.command("restore")
def items_restore(
    table: TablePath, version: Annotated[str, typer.Argument(help="Number of a version, or name of a snapshot.")]
) -> None:
    """Make an earlier version the newest one; the versions between are kept."""
    from galleria.catalog.table import ProductTable

    restored = ProductTable(table, int(version) if version.isdecimal() else version).restore()
    console().print(f"{bold(table)} is restored to {version}, as version {restored.version}")


@items.command("compact")
def items_compact(
    table: TablePath,
    keep_days: Annotated[float, typer.Option(min=0, help="Age at which versions without a name are deleted.")] = 7,
) -> None:
    """Remove superseded rows, merge small files and delete old versions."""
    from datetime import timedelta

    from galleria.catalog.table import ProductTable

    compacted = ProductTable(table).compact(timedelta(days=keep_days))
    files = len(compacted.fragments)
    console().print(f"{bold(table)} is compacted: version {compacted.version}, {files} files of rows")


@items.command("tidy", hidden=True)
def items_tidy(table: TablePath, keep_days: Annotated[float, typer.Option(min=0)] = 7) -> None:
    """Run `compact` by its old name."""
    warnings.warn(
        "'items tidy' is now 'items compact'; the old name will be removed in 0.3", FutureWarning, stacklevel=2
    )
    items_compact(table, keep_days)


@items.command("duplicates")
def items_duplicates(
    table: TablePath,
    threshold: Annotated[float, typer.Option(help="Minimum cosine similarity of near-duplicates.")] = 0.97,
    as_json: AsJson = False,
) -> None:
    """List groups of near-duplicate items."""
    from galleria.catalog.table import ProductTable
    from galleria.index.duplicates import duplicate_groups

    ids, vectors = ProductTable(table).vectors()
    groups = [[str(ids[position]) for position in group] for group in duplicate_groups(vectors, threshold)]
    for group in groups:
        console(as_json).print("\t".join(group), highlight=False, markup=False, soft_wrap=True)
    console(as_json).print(f"{len(groups):,} groups of near-duplicates among {len(ids):,} items")
    print_json(as_json, groups)


def _print_index(folder: Path, manifest: Any) -> None:
    size = f"{manifest.count:,} × {manifest.dimension}, version {manifest.catalog_version} of the table"
    console().print(f"index of {size}, in {bold(folder)}")
    for number, shard in enumerate(manifest.shards):
        spec = shard.spec
        recall = "" if spec.recall == 1 else f", recall@10 {spec.recall:.3f}"
        console().print(f"shard {number}: {spec.kind} of {shard.count:,}{recall}, {spec.bytes:,} bytes ({spec.reason})")


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1, "": 1}
    number = text.upper().rstrip("KMGTB")
    try:
        return int(float(number) * units[text.upper()[len(number) :]])
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"{text!r} is not a valid size: give bytes, or a size such as 500MB or 2GB") from error
