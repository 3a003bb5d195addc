import importlib
import inspect
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

CONFIGS = sorted((Path(__file__).parents[2] / "serve_configs").glob("*.yaml"))


def test_configs_exist():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_and_arguments_are_valid(path):
    deployed = ServeDeploySchema(**yaml.safe_load(path.read_text()))
    for application in deployed.applications:
        module, _, name = application.import_path.partition(":")
        builder = getattr(importlib.import_module(module), name)
        (argument,) = inspect.signature(builder).parameters.values()
        config = argument.annotation.model_validate(application.args)
        assert deployed.http_options.host == "127.0.0.1" or config.keys, "others reach it without a key"
