"""One query in this process: what the family presents, and a clear error for what the bundle does not read."""

from pathlib import Path

import pytest

from galleria.errors import ConfigurationError
from galleria.pipelines.predict_one import predict_one
from tests.drawings import drawing
from tests.serving.bundles import random_bundle


def test_predict_one_rejects_unread_input(tmp_path: Path) -> None:
    bundle = random_bundle("category_tree", tmp_path / "bundle")

    found = predict_one(bundle, {"image": drawing(1)})

    assert {"embedding", "levels"} <= found.keys()
    with pytest.raises(ConfigurationError, match="does not read text: ask with a picture"):
        predict_one(bundle, {"text": "a shoe"})
