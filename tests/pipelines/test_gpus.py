"""GPUs that jobs use: alive ones and those of the autoscaler, never silently fewer than requested."""

import pytest

from galleria.errors import ConfigurationError
from galleria.pipelines.gpus import ClusterGpus, Gpus, parse_gpus


@pytest.mark.parametrize(
    ("alive", "limit", "gpus", "workers", "used"),
    [
        (0, 0, "auto", 2, 0),
        (2, 2, "auto", 2, 2),
        (0, 4, "auto", 4, 4),  # the shipped cluster: min_workers is 0, max_workers 4
        (0, 4, 2, 2, 2),
        (2, 2, 0, 4, 0),
        (0, 0, 0, 1, 0),
    ],
)
def test_training_uses_gpus_or_autoscaler(alive: int, limit: int, gpus: Gpus, workers: int, used: int) -> None:
    assert ClusterGpus(alive, limit).to_train(gpus, workers) == used


@pytest.mark.parametrize(
    ("limit", "gpus", "workers", "message"),
    [
        (2, "auto", 4, "4 worker.* need a GPU each, and this cluster can have 2: use fewer --workers, or --gpus 0"),
        (0, 1, 1, "this cluster can have 0: use a cluster with GPUs, or --gpus 0"),
        (8, 2, 4, "--gpus 2 is not a valid number for 4 worker.*: give --workers 2"),
    ],
)
def test_missing_gpus_are_an_error(limit: int, gpus: Gpus, workers: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClusterGpus(limit, limit).to_train(gpus, workers)


def test_prediction_uses_up_to_the_limit() -> None:
    cluster = ClusterGpus(1, 4)

    assert [cluster.to_predict(gpus) for gpus in ("auto", 0, 3)] == [4, 0, 3]
    with pytest.raises(ConfigurationError, match="--gpus 5 is not a valid number: this cluster can have 4"):
        cluster.to_predict(5)


def test_description_names_autoscaled_gpus() -> None:
    assert ClusterGpus(1, 4).describe(4) == "on 4 GPU(s), of which the autoscaler starts up to 3"
    assert ClusterGpus(4, 4).describe(2) == "on 2 GPU(s)"
    assert ClusterGpus(0, 4).describe(0) == "on CPUs; GPUs of the cluster: 4"
    assert ClusterGpus(0, 0).describe(0) == "on CPUs; the cluster has no GPU"


def test_gpus_option_is_validated() -> None:
    assert [parse_gpus(text) for text in ("auto", "0", "8")] == ["auto", 0, 8]
    with pytest.raises(ConfigurationError, match="--gpus 'all' is not a valid number of GPUs: use auto, 0 or a number"):
        parse_gpus("all")
