import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "transformers", "pytorch_metric_learning", "av")


@pytest.mark.parametrize("module", ["gateway", "app", "offers", "aliases", "shards", "answers", "config", "queries"])
def test_neither_the_gateway_nor_who_starts_it_imports_torch(module):
    code = f"import sys, galleria.serving.{module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
