"""clip-retrieval's back end, without its CLIP: that would be downloaded, and vectors do not need it."""

import json
import sys
import types
from pathlib import Path

if __name__ == "__main__":
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    loader = types.ModuleType("all_clip")
    loader.load_clip = lambda *_, **__: (None, None, None)  # type: ignore[attr-defined]
    sys.modules["all_clip"] = loader
    import faiss
    from clip_retrieval.clip_back import clip_back  # type: ignore[import-not-found]

    faiss.omp_set_num_threads(1)
    paths = folder / "indices.json"
    paths.write_text(json.dumps({"items": str(folder)}))
    clip_back(
        indices_paths=str(paths),
        port=port,
        columns_to_return=["title"],
        enable_mclip_option=False,
        provide_aesthetic_embeddings=False,
    )
