"""What `benchmarks.serving` serves: a bundle, a table and its indexes, and the same index for the peers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.vectors import clustered

IMAGE_SIZE = 224
SHARDS = 4


@dataclass(frozen=True)
class ServedFiles:
    """Paths of what is served.

    Attributes:
        bundle: with random weights, which do not change how long a prediction takes.
        table: product table.
        index: of one shard.
        sharded: index of the same vectors in several shards.
        peers: folder of the FAISS index, the titles and the images that peers read.
    """

    bundle: Path
    table: Path
    index: Path
    sharded: Path
    peers: Path


def prepare_files(folder: Path, count: int, dimension: int, network: str = "tf_efficientnet_lite0") -> ServedFiles:
    """Write a catalogue of `count` clustered vectors and a bundle that embeds images with `network`."""
    from galleria.catalog.items import table_schema, upserts
    from galleria.catalog.table import ProductTable
    from galleria.pipelines.build_index import build_index

    folder.mkdir()
    files = ServedFiles(*(folder / name for name in ("bundle", "table", "index", "sharded", "peers")))
    bundle_hash = _save_bundle(files.bundle, dimension, network)
    vectors = clustered(count, dimension, seed=1)
    items = [{"id": f"i{number}", "title": f"Item {number}"} for number in range(count)]
    table = ProductTable.create(files.table, table_schema(dimension, bundle_hash))
    table = table.append(upserts(items, vectors, bundle_hash))
    build_index(table, files.index)
    build_index(table, files.sharded, shards=SHARDS)
    _write_peer_files(files, items, bundle_hash)
    return files


def _save_bundle(path: Path, dimension: int, network: str) -> str:
    """Save a bundle with random weights; return its hash."""
    import torch

    from galleria.families.text_guided.config import TextGuidedConfig
    from galleria.learn.bundle import save_bundle
    from galleria.learn.encoders.config import ImageEncoderConfig
    from galleria.learn.family import Context, load_family

    torch.manual_seed(0)
    family = load_family("text_guided")
    image = ImageEncoderConfig(architecture=network)
    config = TextGuidedConfig(image=image, size=IMAGE_SIZE, dimension=dimension, slices=())
    context = Context(config, {"product": (), "source": ()}, {})
    return save_bundle(path, family, context, family.build(config).eval(), {}, "# For a benchmark\n").hash


def _write_peer_files(files: ServedFiles, items: Sequence[dict[str, Any]], bundle_hash: str) -> None:
    """Write our own index with the effort that our build chose, and titles in its order."""
    import faiss
    import pyarrow as pa
    import pyarrow.parquet

    from galleria.catalog.items import item_key
    from galleria.index.base import open_build
    from galleria.index.manifest import current_manifest

    shard = current_manifest(files.index).shards[0]
    index = faiss.read_index(str(next(files.index.rglob(shard.vectors))))
    if shard.spec.effort:  # else it is scanned
        graph = shard.spec.kind.startswith("HNSW")
        faiss.ParameterSpace().set_index_parameter(index, "efSearch" if graph else "nprobe", shard.spec.effort)
        if not graph:
            index.make_direct_map()  # clip-retrieval reads the vectors again
    metadata = files.peers / "metadata"
    metadata.mkdir(parents=True)
    faiss.write_index(index, str(files.peers / "image.index"))
    titles = {item_key(item["id"]): item["title"] for item in items}
    in_order = [titles[key] for key in open_build(files.index, bundle_hash).bases[0].keys.tolist()]
    (files.peers / "titles.json").write_text(json.dumps(in_order))
    pa.parquet.write_table(pa.table({"title": in_order}), metadata / "0.parquet")
