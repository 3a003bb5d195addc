"""Training through Ray: one and several workers, resuming after a kill, bad rows, and what is left on disk."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from galleria.errors import ConfigurationError, EmptyDatasetError, GalleriaError
from galleria.families.text_guided.recipes import debug
from galleria.learn.bundle import Bundle
from galleria.learn.recipe import Recipe
from galleria.pipelines.datasets import Source
from galleria.pipelines.train import Progress, train, untrained
from tests.pipelines.conftest import Write

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_instance")]


@pytest.fixture(scope="module")
def uninterrupted(clean_data: str, ray_instance: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of the debug recipe on the clean data, started from the command line's function."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    shown: list[Progress] = []
    trained = train(debug(), Source(clean_data), out, show=shown.append)
    assert [report.epoch for report in trained.reports] == [1, 2, 3]
    assert trained.reports[-1].stop == "epochs"
    assert trained.reports[-1].losses["loss"] < trained.reports[0].losses["loss"]
    assert [report.steps for report in trained.reports] == [6, 6, 6]  # 96 rows in batches of 16
    assert {progress.steps for progress in shown} == {6}
    assert trained.rejects == []
    return out


def test_run_leaves_bundle_of_best_epoch(uninterrupted: Path) -> None:
    bundle = Bundle.open(uninterrupted / "bundle")
    assert bundle.context.config.classes == 0
    assert len(bundle.context.labels["product"]) == 48
    assert {"R@1", "customer/R@1", "text/R@5"} <= bundle.metrics.keys()
    assert bundle.metrics["R@1"].count == 12
    assert "Trained on 96 rows, validated on 24" in (bundle.path / "README.md").read_text()
    assert (uninterrupted / "rejects.jsonl").read_text() == ""


def test_finished_run_is_not_overwritten(uninterrupted: Path, clean_data: str) -> None:
    with pytest.raises(ConfigurationError, match="holds a training run already: continue it with --resume"):
        train(debug(), Source(clean_data), uninterrupted)


@pytest.mark.slow
def test_resume_of_finished_run_keeps_bundle(uninterrupted: Path, clean_data: str) -> None:
    before = Bundle.open(uninterrupted / "bundle").hash
    trained = train(debug(), Source(clean_data), uninterrupted, resume=True)
    assert trained.reports == []
    assert trained.bundle.hash == before


def test_resume_with_other_recipe_is_rejected(uninterrupted: Path, clean_data: str) -> None:
    other = debug().model_copy(update={"optimization": debug().optimization.model_copy(update={"warmup": 0.5})})
    with pytest.raises(ConfigurationError, match=r"optimization.warmup \(was .*, is 0.5\)"):
        train(other, Source(clean_data), uninterrupted, resume=True)


@pytest.mark.slow
def test_damaged_checkpoint_is_skipped(uninterrupted: Path, clean_data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    newest = max(out.glob("checkpoints/*/state.pt"), key=lambda path: path.parent.name)
    newest.write_bytes(newest.read_bytes()[:1000])

    with pytest.warns(RuntimeWarning, match="is damaged, the one before it is used"):
        trained = train(debug(), Source(clean_data), out, resume=True)

    assert [report.epoch for report in trained.reports] == [3]
    resumed, whole = (load_file(folder / "bundle" / "model.safetensors") for folder in (out, uninterrupted))
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-5)


def _written(snapshot: Path) -> bool:
    """Whether Ray Train's list of checkpoints is whole, and names one."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return bool(json.loads(snapshot.read_text())["checkpoint_results"])
    return False


@pytest.mark.slow
def test_killed_run_resumes_to_equal_weights(uninterrupted: Path, clean_data: str, tmp_path: Path) -> None:
    """R12: a killed run ends as one that was not."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "jobs.train", "text_guided", clean_data, "--recipe", "debug", "--out", str(out)]
    command += ["--checkpoint-minutes", "0"]  # after every step: it is killed inside an epoch
    environment = os.environ | {"RAY_TMPDIR": str(Path(os.environ["RAY_TMPDIR"], "k"))}
    Path(environment["RAY_TMPDIR"]).mkdir(exist_ok=True)
    root = Path(__file__).parents[2]
    job = psutil.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not _written(out / "checkpoints" / "checkpoint_manager_snapshot.json"):
        assert time.monotonic() < deadline, "no checkpoint was written"
        assert job.poll() is None, "the job ended before it could be killed"
        time.sleep(0.005)  # its epochs are short, and it shall not end before
    for process in [*job.children(recursive=True), job]:  # Ray's workers would train on until they miss the driver
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    job.wait()
    trained = train(debug(), Source(clean_data), out, resume=True)
    assert 1 <= len(trained.reports) <= 3
    assert trained.reports[-1].epoch == 3
    resumed, whole = (load_file(folder / "bundle" / "model.safetensors") for folder in (out, uninterrupted))
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_decoding_on_cluster_keeps_weights(uninterrupted: Path, clean_data: str, tmp_path: Path) -> None:
    sampling = debug().sampling.model_copy(update={"decode_on": "cluster"})
    trained = train(debug().model_copy(update={"sampling": sampling}), Source(clean_data), tmp_path / "run")
    assert len(trained.reports) == 3
    made, whole = (load_file(folder / "bundle" / "model.safetensors") for folder in (tmp_path / "run", uninterrupted))
    for name, value in whole.items():
        torch.testing.assert_close(made[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_workers_train_one_model(clean_data: str, tmp_path: Path) -> None:
    recipe = _shorter(debug(), epochs=1)
    trained = train(recipe, Source(clean_data), tmp_path / "run", workers=2)
    [report] = trained.reports
    assert report.steps == 3  # 96 rows, two workers, batches of 16
    assert trained.bundle.metrics["R@1"].count == 12


@pytest.mark.slow
def test_bad_pictures_are_rejected(write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [dict(row) for row in clean_rows]
    rows[0]["image"] = b"not a picture"
    rows[7]["image"] = rows[7]["image"][:60]
    rows[9]["text"] = None
    rows[97]["image"] = b""
    for row in rows[12:96]:  # of the training split 10 are left: too few for 2 in each of 6 batches
        row["image"] = b"broken"
    trained = train(_shorter(debug(), epochs=1), Source(write(rows)), tmp_path / "run")
    found = {reject.id: reject for reject in trained.rejects}
    assert found.keys() == {
        rows[0]["id"],
        rows[7]["id"],
        rows[9]["id"],
        rows[97]["id"],
        "",
        *(row["id"] for row in rows[12:96]),
    }
    assert re.match(r"worker 0 has [1-5] of 6 batches an epoch, since rows were rejected", found[""].reason)
    assert "not a picture of a known format" in found[rows[0]["id"]].reason
    assert "cut short" in found[rows[7]["id"]].reason
    assert found[rows[9]["id"]].kept
    assert "0 bytes" in found[rows[97]["id"]].reason
    written = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert {line["id"] for line in written} == found.keys()


@pytest.mark.slow
def test_no_usable_picture_is_an_error(write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [row | {"image": b"broken"} for row in clean_rows]
    with pytest.raises(GalleriaError, match=r"no row of the validation split can be used: rejects\.jsonl says why"):
        train(debug(), Source(write(rows)), tmp_path / "run")
    rejected = [json.loads(line)["id"] for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert set(rejected) == {row["id"] for row in rows if row["split"] == "validation"}


def test_too_few_rows_fail_before_start(write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    few = [row for row in clean_rows if row["split"] == "validation"] + clean_rows[:6]
    with pytest.raises(ConfigurationError, match=r"6 training rows on 1 worker.* do not fill one batch of 16"):
        train(debug(), Source(write(few)), tmp_path / "run")


def test_empty_validation_split_is_an_error(write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [row for row in clean_rows if row["split"] == "train"]
    with pytest.raises(EmptyDatasetError, match="'validation'"):
        train(debug(), Source(write(rows)), tmp_path / "run")


@pytest.mark.slow
def test_unknown_metric_is_raised_to_caller(clean_data: str, tmp_path: Path) -> None:
    recipe = debug().model_copy(update={"stopping": debug().stopping.model_copy(update={"metric": "accuracy"})})
    with pytest.raises(ConfigurationError, match="monitors 'accuracy', but the validation scores are R@1"):
        train(recipe, Source(clean_data), tmp_path / "run")


def test_untrained_bundle_is_deterministic(clean_data: str, tmp_path: Path) -> None:
    first, second = (untrained(debug(), Source(clean_data), tmp_path / name) for name in ("one", "two"))
    assert first.hash == second.hash


def _shorter(recipe: Recipe[Any], epochs: int) -> Recipe[Any]:
    return recipe.model_copy(update={"stopping": recipe.stopping.model_copy(update={"epochs": epochs})})
