import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "transformers", "pytorch_metric_learning", "av")


@pytest.mark.parametrize(
    "module",
    ["gateway", "app", "run", "resolve", "config", "services.releases", "retrieval.shards", "retrieval.writer"],
)
def test_import_needs_no_torch(module):
    code = f"import sys, galleria.serving.{module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
