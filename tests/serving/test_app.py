import traceback

import pytest

from galleria.errors import BundleError, ConfigurationError
from galleria.serving.app import build, last_error, start


def test_last_error_is_on_one_line():
    try:
        try:
            raise KeyError("first")
        except KeyError as cause:
            raise BundleError("bundle b: cannot be read:\n  a: wrong\n    Explained at https://example.org") from cause
    except BundleError:
        trace = f"The deployment failed to start 3 times. Error:\n{traceback.format_exc()}"
    assert last_error(trace) == (
        "galleria.errors.BundleError: bundle b: cannot be read: a: wrong Explained at https://example.org"
    )


def test_text_without_error_is_kept():
    assert last_error("no\n trace") == "no trace"


def test_writer_reserves_a_cpu(catalogue):
    """It builds the index; nothing else does unless a model is deployed."""
    application = build(catalogue.config.model_copy(update={"writable": True}))
    deployments = [application._bound_deployment, *application._bound_deployment.init_args]
    cpus = {
        bound.name: bound.ray_actor_options["num_cpus"]
        for each in deployments
        if (bound := getattr(each, "_bound_deployment", each)) and hasattr(bound, "ray_actor_options")
    }
    assert cpus == {"Gateway": 0, "Writer": 1}


def test_unknown_deployment_is_an_error(catalogue):
    with pytest.raises(ConfigurationError, match=r"deployments: 'Shard-0' is not one of Gateway, Model-search$"):
        start(
            catalogue.config.model_copy(update={"inference": "deployed"}),
            deployments={"Gateway": {"num_replicas": 2}, "Shard-0": {"num_replicas": 2}},
        )


def test_any_origin_requires_keys(catalogue):
    config = catalogue.config.model_copy(update={"cors_origins": ("https://shop.example", "*")})
    with pytest.raises(ConfigurationError, match=r"cors_origins has '\*' and the service no keys"):
        build(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GALLERIA_READ_KEY", "r")
        build(config)
