import importlib
import inspect
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from galleria.errors import ConfigurationError
from galleria.serving.config_file import ConfigFile, read_config_file
from galleria.serving.run import has_one_replica

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
        assert read_config_file(path).args == application.args
        assert deployed.http_options.host == "127.0.0.1" or config.keys, "others reach it without a key"


FILE = """
http_options: {host: 0.0.0.0, port: 8123}
applications:
  - name: other
    route_prefix: /other
    import_path: other:app
  - name: galleria
    import_path: galleria.serving.app:build
    args: {models: {mood: runs/mood}}
    deployments:
      - name: Gateway
        num_replicas: 3
        ray_actor_options: {num_cpus: 0.5}
"""


def test_config_file_has_args_deployments_and_address(tmp_path):
    (tmp_path / "service.yaml").write_text(FILE)

    assert read_config_file(tmp_path / "service.yaml") == ConfigFile(
        {"models": {"mood": "runs/mood"}},
        {"Gateway": {"num_replicas": 3, "ray_actor_options": {"num_cpus": 0.5}}},
        "0.0.0.0",
        8123,
    )


def test_config_file_without_address_sets_none(tmp_path):
    (tmp_path / "service.yaml").write_text(FILE.replace("http_options", "grpc_options").replace("host: 0.0.0.0, ", ""))

    file = read_config_file(tmp_path / "service.yaml")

    assert (file.host, file.port) == (None, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FILE.replace("galleria.serving", "elsewhere"), "has 0 applications with import_path galleria.serving.app"),
        (FILE.replace("other:app", "galleria.serving.app:build"), "has 2 applications"),
        (FILE.replace("num_replicas: 3", "num_replicas: -3"), "not a valid config file of Ray Serve: .*num_replicas"),
        ("applications: [", "is not valid YAML"),
        ("", "not a valid config file"),
    ],
)
def test_config_file_errors_name_the_mistake(content, message, tmp_path):
    (tmp_path / "service.yaml").write_text(content)

    with pytest.raises(ConfigurationError, match=message):
        read_config_file(tmp_path / "service.yaml")


def test_missing_config_file_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_config_file(tmp_path / "service.yaml")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"num_replicas": 1}, True),
        ({"num_replicas": 2}, False),
        ({"num_replicas": "auto"}, False),
        ({"num_replicas": 1, "autoscaling_config": {"min_replicas": 1, "max_replicas": 4}}, False),
    ],
)
def test_has_one_replica(options, expected):
    assert has_one_replica(options) is expected
