"""A bundle comes back bit for bit, or is rejected: damaged, foreign, newer, or reaching out of its folder."""

import hashlib
import json
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from galleria.errors import BundleError
from galleria.families.text_guided.recipes import debug
from galleria.learn.bundle import Bundle, save_bundle
from galleria.learn.bundle_manifest import MANIFEST, identity
from galleria.learn.family import load_family
from galleria.learn.metrics.score import Score
from galleria.learn.task import Task
from tests.drawings import product_rows

FILES = ("README.md", "config.json", "labels.json", "metrics.json", "model.safetensors", "preprocessor/tokenizer.json")


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return Path(shutil.copytree(bundle.path, tmp_path / "bundle"))


def task(seed: int = 0) -> Task:
    torch.manual_seed(seed)
    return load_family("text_guided").build(debug().model.model_copy(update={"text": None, "classes": 3}))


def save(path: Path, network: Task, card: str = "# Card\n", metrics: dict[str, Score] | None = None) -> Bundle:
    family = load_family("text_guided")
    context = family.context(debug().model.model_copy(update={"text": None}), product_rows(3))
    return save_bundle(path, family, context, network, metrics or {}, card)


def sign(folder: Path, files: dict[str, str] | None = None, **changes: object) -> None:
    """Write the manifest that fits the folder as it now is: what somebody who makes a bundle by hand can do."""
    if files is None:
        paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
        files = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    manifest = {"format": 1, "files": files, "hash": identity(files), **changes}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def edit(file: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(file.read_bytes())
    change(value)
    file.write_text(json.dumps(value))


def test_bundle_roundtrip_is_bit_exact(bundle):
    again = Bundle.open(bundle.path)
    stored = load_file(bundle.path / "model.safetensors")
    network = again.task()

    assert again == bundle
    assert not network.training
    assert stored.keys() == network.state_dict().keys()
    assert all(torch.equal(stored[name], value) for name, value in network.state_dict().items())


def test_loaded_network_predicts_alike(tmp_path):
    network = task().eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)

    loaded = save(tmp_path / "bundle", network).task()

    assert torch.equal(
        loaded.predict({"pixels": pixels})["embedding"], network.predict({"pixels": pixels})["embedding"]
    )


def test_labels_metrics_tokenizer_roundtrip(bundle, tmp_path):
    metrics = {"R@1": Score(0.5, 0.4, 0.6, 100)}

    assert save(tmp_path / "bundle", task(), metrics=metrics).metrics == metrics
    assert bundle.context.labels["product"][:2] == ("product 0", "product 1")
    assert json.loads(bundle.context.files["tokenizer.json"])["model"]["type"] == "BPE"


def test_names_roundtrip_in_any_locale(tmp_path):
    script = f"""
from pathlib import Path
import torch
from galleria.learn.bundle import save_bundle
from galleria.learn.family import load_family
from galleria.families.text_guided.recipes import debug
family = load_family("text_guided")
rows = [{{"product_id": "\\u978b \\U0001f45f", "source": "M\\u00fcller"}}]
context = family.context(debug().model.model_copy(update={{"text": None}}), rows)
save_bundle(Path({str(tmp_path / "bundle")!r}), family, context, family.build(context.config), {{}}, "# \\u978b")
"""
    strict = ["-X", "warn_default_encoding", "-W", "error:::galleria.learn.bundle"]
    subprocess.run([sys.executable, *strict, "-c", script], check=True)

    assert Bundle.open(tmp_path / "bundle").context.labels == {"product": ("鞋 👟",), "source": ("Müller",)}


def test_hash_ignores_card_and_metrics(tmp_path):
    one = save(tmp_path / "one", task(), card="# One\n")
    other = save(tmp_path / "other", task(), card="# Other\n", metrics={"R@1": Score(1, 1, 1, 1)})

    assert one.hash == other.hash


def test_hash_changes_with_any_weight(tmp_path):
    network = task()
    seen = {save(tmp_path / "bundle", network).hash}
    for name, value in network.state_dict().items():
        if name.startswith("image_classes"):
            continue  # a training head is not exported
        with torch.no_grad():
            value[(-1,) * value.ndim] += 1
        seen.add(save(tmp_path / "bundle", network).hash)
        if len(seen) > 6:
            break

    assert len(seen) == 7


def test_training_heads_are_not_saved(bundle):
    assert not [name for name in load_file(bundle.path / "model.safetensors") if "classes" in name]
    assert bundle.context.config.classes == 0


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_open_rejects_missing_file(copied, name):
    (copied / name).unlink()

    with pytest.raises(BundleError, match=r"missing or damaged|not a bundle"):
        Bundle.open(copied)


@pytest.mark.parametrize("name", FILES)
def test_open_rejects_flipped_and_cut_bytes(copied, name):
    """R11: no damaged file is read."""
    file = copied / name
    content = file.read_bytes()
    chance = random.Random(name)
    for _ in range(30):
        spoilt = bytearray(content)
        spoilt[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        for damaged in (bytes(spoilt), content[: chance.randrange(len(content))], content + b"\0"):
            file.write_bytes(damaged)
            with pytest.raises(BundleError, match="damaged"):
                Bundle.open(copied)


def test_damaged_manifest_never_changes_data(copied, bundle):
    file = copied / MANIFEST
    content = file.read_bytes()
    chance = random.Random(0)
    rejected = 0
    for _ in range(300):
        spoilt = bytearray(content)
        spoilt[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(spoilt)
        try:
            assert Bundle.open(copied).hash == bundle.hash  # a space that became another blank
        except BundleError:
            rejected += 1
    assert rejected > 280
    for length in range(0, len(content) - 2, 7):
        file.write_bytes(content[:length])
        with pytest.raises(BundleError):
            Bundle.open(copied)


def test_open_rejects_other_folder(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(BundleError, match="is not a bundle"):
            Bundle.open(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(tmp_path / "file")


def test_open_rejects_newer_format(copied):
    edit(copied / MANIFEST, lambda manifest: manifest.update(format=2))

    with pytest.raises(BundleError, match="format 2, this galleria reads up to 1: upgrade"):
        Bundle.open(copied)


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0, [1]])
def test_open_rejects_invalid_format(copied, version):
    edit(copied / MANIFEST, lambda manifest: manifest.update(format=version))

    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(copied)


@pytest.mark.parametrize(
    "manifest", ["[]", "null", "3", "{}", '{"format": 1}', '{"format": 1, "files": []}', "[" * 99_999]
)
def test_open_rejects_malformed_manifest(copied, manifest):
    (copied / MANIFEST).write_text(manifest)

    with pytest.raises(BundleError):
        Bundle.open(copied)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b'{"family": "os", "model": {}}'),
        ("config.json", b'{"family": "__init__", "model": {}}'),
        ("config.json", b'{"family": "../text_guided", "model": {}}'),
        ("config.json", b'{"family": 3, "model": {}}'),
        ("config.json", b'{"family": "text_guided", "model": {"dimension": -1}}'),
        ("config.json", b'{"family": "text_guided"}'),
        ("config.json", b"[]"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b"[" * 99_999),
        ("labels.json", b"[1]"),
        ("labels.json", b'{"product": 3}'),
        ("metrics.json", b'{"R@1": {"worth": 1}}'),
        ("metrics.json", b'{"R@1": 1}'),
    ],
)
def test_open_rejects_invalid_description(copied, file, content):
    (copied / file).write_bytes(content)
    sign(copied)

    with pytest.raises(BundleError, match="description cannot be read"):
        Bundle.open(copied)


@pytest.mark.parametrize("weights", ["timm", "/tmp/elsewhere.safetensors", "somebody/model"])
def test_open_rejects_external_weights(copied, weights):
    edit(copied / "config.json", lambda config: config["model"]["image"].update(weights=weights))
    sign(copied)

    with pytest.raises(BundleError, match=f"asks for weights from '{weights}', outside the bundle"):
        Bundle.open(copied)


def test_open_rejects_manifest_of_other_files(copied):
    edit(copied / MANIFEST, lambda manifest: manifest.update(hash="0" * 64))

    with pytest.raises(BundleError, match="does not fit its files"):
        Bundle.open(copied)


@pytest.mark.parametrize(
    "name", ["../secret", "preprocessor/../../secret", "/etc/hostname", ".", "", "preprocessor/.."]
)
def test_open_rejects_name_outside_folder(copied, name):
    """S2: a manifest names no file outside of its bundle."""
    secret = copied.parent / "secret"
    secret.write_text("secret")
    files = json.loads((copied / MANIFEST).read_text())["files"]
    sign(copied, files | {name: hashlib.sha256(b"secret").hexdigest()})

    with pytest.raises(BundleError, match=r"outside|missing or damaged"):
        Bundle.open(copied)


def test_open_rejects_name_with_nul(copied):
    sign(copied, json.loads((copied / MANIFEST).read_text())["files"] | {"a\0b": "0"})

    with pytest.raises(BundleError, match="file names"):
        Bundle.open(copied)


@pytest.mark.parametrize("name", ["labels.json", "preprocessor/tokenizer.json"])
def test_open_rejects_link_outside_folder(copied, name):
    """S2: nor does a link."""
    outside = copied.parent / "outside.json"
    (copied / name).rename(outside)
    (copied / name).symlink_to(outside)

    with pytest.raises(BundleError, match="outside the bundle's folder"):
        Bundle.open(copied)


def test_open_rejects_linked_subfolder(copied):
    outside = copied.parent / "outside"
    (copied / "preprocessor").rename(outside)
    (copied / "preprocessor").symlink_to(outside)

    with pytest.raises(BundleError, match="outside the bundle's folder"):
        Bundle.open(copied)


def test_open_follows_link_to_bundle(copied, bundle):
    link = copied.parent / "current"
    link.symlink_to(copied)

    assert Bundle.open(link).hash == bundle.hash


def test_open_ignores_unlisted_files(copied, bundle):
    (copied / "notes.txt").write_text("mine")
    (copied / "preprocessor" / "extra.json").write_text("{}")
    (copied / "preprocessor" / "leak").symlink_to("/etc/passwd")

    opened = Bundle.open(copied)

    assert opened.context == bundle.context
    assert opened.hash == bundle.hash


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.nest,)


def test_canary_runs_when_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Canary(tmp_path / "sang")))

    assert (tmp_path / "sang").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "labels.json", "model.pkl", "model.pt", "preprocessor/p.pkl"]
)
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_open_never_unpickles(copied, tmp_path, name, writer):
    """S3: the canary does not run."""
    canary = Canary(tmp_path / "sang")
    if writer == "pickle":
        (copied / name).write_bytes(pickle.dumps(canary))
    else:
        torch.save(canary, copied / name)
    sign(copied)
    if name in FILES:
        with pytest.raises(BundleError):
            Bundle.open(copied).task()
    else:
        Bundle.open(copied).task()

    assert not (tmp_path / "sang").exists()


def test_task_rejects_weights_of_other_shape(copied):
    weights = load_file(copied / "model.safetensors")
    first = next(iter(weights))
    for changed in ({**weights, first: torch.zeros(2)}, {**weights, "extra": torch.zeros(2)}, {"only": torch.zeros(1)}):
        save_file(changed, copied / "model.safetensors")
        sign(copied)
        with pytest.raises(BundleError, match="weights do not fit"):
            Bundle.open(copied).task()


def test_save_replaces_old_bundle(tmp_path):
    first = save(tmp_path / "bundle", task(0))
    (tmp_path / "bundle" / "left over").write_text("x")

    second = save(tmp_path / "bundle", task(1))

    assert first.hash != second.hash
    assert Bundle.open(tmp_path / "bundle").hash == second.hash
    assert not (tmp_path / "bundle" / "left over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_failed_save_keeps_old_bundle(tmp_path):
    first = save(tmp_path / "bundle", task())
    with pytest.raises(TypeError):
        save(tmp_path / "bundle", task(1), card=None)  # type: ignore[arg-type]

    assert Bundle.open(tmp_path / "bundle").hash == first.hash
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_bundle_contains_its_card(tmp_path):
    assert (
        save(tmp_path / "deep" / "er" / "bundle", task(), card="# Åå\n").path / "README.md"
    ).read_bytes() == "# Åå\n".encode()
