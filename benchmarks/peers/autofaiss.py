"""autofaiss: an index that it chooses and tunes by itself, within 10 ms per query and 8 GB; its effort is swept too."""

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from autofaiss import build_index  # type: ignore[import-not-found]

from benchmarks.peers.contestant import Contestant, K, run


class AutoFaiss(Contestant):
    """An index file; it has no upserts and no filters."""

    writes = False
    filters = False

    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """Build with one call, and save the setting that it chose."""
        folder.mkdir(parents=True)
        _, details = build_index(
            vectors,
            index_path=str(folder / "index"),
            index_infos_path=str(folder / "infos.json"),
            metric_type="ip",
            max_index_query_time_ms=10,
            max_index_memory_usage="8G",
            current_memory_available="16G",
            verbose=40,
        )
        infos = details or {}
        (folder / "setting.json").write_text(json.dumps(str(infos["index_param"])))
        return {"chosen": f"{infos['index_key']} {infos['index_param']}"}

    def open(self, folder: Path) -> None:
        """Open index and setting."""
        self.index = faiss.read_index(str(folder / "index"))
        self.setting = json.loads((folder / "setting.json").read_text())

    def settings(self) -> list[Any]:
        """Return its own setting, and others of the same index."""
        name = "efSearch" if self.setting.startswith("efSearch") else "nprobe"
        return [*(f"{name}={effort}" for effort in (16, 24, 32, 48, 64, 128, 256)), self.setting]

    def use(self, setting: Any) -> None:
        """Set it as autofaiss itself does."""
        faiss.ParameterSpace().set_index_parameters(self.index, setting)

    def search(self, query: Any, selectivity: int) -> list[int]:  # noqa: ARG002
        """Search all items."""
        _, numbers = self.index.search(query[None].astype(np.float32), K)
        return [number for number in numbers[0].tolist() if number >= 0]


if __name__ == "__main__":
    run(AutoFaiss)
