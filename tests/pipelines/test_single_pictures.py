"""Products with one picture each: views are the positives in training, augmented pictures the queries in validation."""

from pathlib import Path
from typing import Any

import pytest

from galleria.errors import ConfigurationError
from galleria.families.text_guided.config import TextGuidedConfig
from galleria.families.text_guided.recipes import debug
from galleria.learn.family import load_family
from galleria.learn.recipe import Recipe
from galleria.learn.training.augmentation import Augmentation
from galleria.pipelines.datasets import ProductDataset, Source
from galleria.pipelines.single_pictures import needs_augmented_queries, with_views
from galleria.pipelines.train import train
from tests.pipelines.conftest import Write

FAMILY = load_family("text_guided")
Rows = list[dict[str, Any]]


ROTATION = Augmentation(rotation=20)


def recipe(augmentation: Augmentation = ROTATION, **stopping: Any) -> Recipe[TextGuidedConfig]:
    run = debug()
    update = {"augmentation": augmentation}
    stop = run.stopping.model_copy(update={"epochs": 1, **stopping})
    return run.model_copy(update={"model": run.model.model_copy(update=update), "stopping": stop})


@pytest.fixture
def single(clean_rows: Rows) -> Rows:
    """The gallery's picture of each product, without a role."""
    return [row | {"role": None} for row in clean_rows if row["role"] == "gallery"]


def dataset(write: Write, rows: Rows) -> ProductDataset:
    return ProductDataset(Source(write(rows)), FAMILY)


def test_one_row_a_group_gets_two_views(write: Write, single: Rows) -> None:
    data = dataset(write, single)
    assert with_views(recipe(), data).sampling.views == 2
    [reject] = data.rejects
    assert reject.kept
    assert "each 'product_id' has one row in the training split" in reject.reason


def test_groups_with_positives_get_no_views(write: Write, clean_rows: Rows, single: Rows) -> None:
    for rows in (clean_rows, [*single, single[0] | {"id": "another"}]):
        data = dataset(write, rows)
        assert with_views(recipe(), data).sampling.views == 1
        assert data.rejects == []


def test_queries_are_augmented_if_none_has_positive(write: Write, single: Rows, clean_rows: Rows) -> None:
    data = dataset(write, single)
    assert needs_augmented_queries(recipe(), FAMILY, data)
    assert "queries are augmented pictures of the gallery" in data.rejects[0].reason
    assert not needs_augmented_queries(recipe(), FAMILY, dataset(write, clean_rows))
    twice = [*single, single[-20] | {"id": "another"}]
    assert not needs_augmented_queries(recipe(), FAMILY, dataset(write, twice))


def test_monitored_score_without_queries_is_rejected(write: Write, single: Rows) -> None:
    data = dataset(write, single)
    with pytest.raises(ConfigurationError, match=r"monitors 'R@1', but no product .* monitor 'text/R@1'"):
        needs_augmented_queries(recipe(Augmentation()), FAMILY, data)
    assert needs_augmented_queries(recipe(Augmentation(), metric="text/R@1"), FAMILY, data)


@pytest.mark.slow
@pytest.mark.ray
def test_run_scores_augmented_queries(ray_instance: None, write: Write, single: Rows, tmp_path: Path) -> None:
    run = recipe()
    trained = train(run, Source(write(single)), tmp_path / "run")
    [report] = trained.reports
    assert report.steps == 6  # 48 rows, two views of each, batches of 16
    assert report.losses["contrastive"] > 0
    assert report.scores["R@1"].count == 12
    assert {reject.id for reject in trained.rejects} == {""}
