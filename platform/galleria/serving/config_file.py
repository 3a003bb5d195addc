"""Reads a Ray Serve config file, so that one file starts the service on a laptop and on a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from galleria.errors import ConfigurationError

IMPORT_PATH = "galleria.serving.app:build"
"""The import path of the service in such a file."""


@dataclass(frozen=True)
class ConfigFile:
    """What a Ray Serve config file says of the service.

    Attributes:
        args: options of the service, as `ServiceConfig` takes them.
        deployments: options of deployments by name, such as `num_replicas`.
        host: address to listen on, if the file sets it: Serve's own default would open the service to other machines.
        port: port to listen on, if the file sets it.
    """

    args: Mapping[str, Any]
    deployments: Mapping[str, Mapping[str, Any]]
    host: str | None
    port: int | None


def read_config_file(path: Path) -> ConfigFile:
    """Read the file that `serve run` and `serve deploy` take.

    Raises:
        ConfigurationError: it cannot be read, is not a valid config file of Ray Serve, or has no or several galleria
            applications.
    """
    from ray.serve.schema import ServeDeploySchema

    try:
        content = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): name a Ray Serve config file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{path} is not a valid config file of Ray Serve: {location} {first['msg']}"
        ) from error
    applications = [application for application in content.applications if application.import_path == IMPORT_PATH]
    if len(applications) != 1:
        raise ConfigurationError(
            f"{path} has {len(applications)} applications with import_path {IMPORT_PATH}: give it one"
        )
    options = {deployment.name: deployment.model_dump(exclude_unset=True) for deployment in applications[0].deployments}
    for values in options.values():
        del values["name"]
    address = content.http_options.model_dump(exclude_unset=True)
    return ConfigFile(applications[0].args, options, address.get("host"), address.get("port"))
