"""Pictures of strangers."""

import subprocess
import sys
import tarfile

import PIL
import pytest

from tests.media.test_bad_bytes import BOMBS, OTHER_KINDS
from tests.media.test_variants import COLOURED, GREYS
from tests.soak import SOAK

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".webp", ".bmp", ".pcx", ".tga", ".ico", ".jp2", ".psd"}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[bytes]:
    """The variants of one picture; at long sizes those of Pillow's own tests too."""
    if SOAK == 1:
        return [*COLOURED.values(), *GREYS.values(), *BOMBS.values(), *OTHER_KINDS.values()]
    folder = tmp_path_factory.mktemp("pillow")
    package = f"pillow=={PIL.__version__}"
    options = ["--no-deps", "--no-binary", "pillow", "--quiet", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, package], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
