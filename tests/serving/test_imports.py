import json
import subprocess
import sys

import pytest

from galleria.learn.family import family_names

HEAVY = ("torch", "torchvision", "timm", "transformers", "pytorch_metric_learning", "av")
LIGHT = (
    "learn.bundle",
    *(f"families.{name}" for name in family_names() if name != "video_event"),  # which reads with av
    "serving.gateway",
    "serving.app",
    "serving.run",
    "serving.resolve",
    "serving.config",
    "serving.schemas.requests",
    "serving.schemas.responses",
    "serving.services.releases",
    "serving.retrieval.shards",
    "serving.retrieval.writer",
    "serving.inference.server",
)


@pytest.fixture(scope="module")
def imported():
    """Heavy modules that are loaded after each import of `LIGHT`, in one process: later ones show them as well."""
    code = (
        "import importlib, json, sys\n"
        f"for module in {LIGHT}:\n"
        "    importlib.import_module(f'galleria.{module}')\n"
        f"    print(json.dumps([module, [name for name in {HEAVY} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", LIGHT)
def test_import_needs_no_torch(imported, module):
    assert imported[module] == []
