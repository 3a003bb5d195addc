"""How the environment configures Serve's ingress."""

import socket

import pytest

from galleria.errors import ConfigurationError
from galleria.serving.app import check_open
from galleria.serving.ingress import INGRESS_VARIABLES, check_port_is_free, direct_ingress


def test_single_gateway_listens_itself():
    environment = {"PATH": "/bin"}
    with direct_ingress(8123, True, True, environment) as proxy_port:
        assert proxy_port not in (0, 8123)
        assert environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
        ports = [int(environment[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX")]
        assert list(range(*ports)) == [8123]
    assert environment == {"PATH": "/bin"}


def test_several_gateways_are_behind_the_proxy():
    environment: dict[str, str] = {}
    with direct_ingress(8123, False, True, environment) as proxy_port:
        assert proxy_port == 8123
        assert environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"


def test_running_ray_is_left_unchanged():
    environment: dict[str, str] = {}
    with direct_ingress(8123, True, False, environment) as proxy_port:
        assert (proxy_port, environment) == (8123, {})


@pytest.mark.parametrize("name", INGRESS_VARIABLES)
def test_environment_has_precedence(name):
    environment = {name: "chosen", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
    with direct_ingress(8123, True, True, environment) as proxy_port:
        assert proxy_port == 8123
        assert environment == {name: "chosen", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
    assert environment == {name: "chosen", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}


def test_used_port_is_reported_before_start():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} .*: stop what listens there, or choose another"):
            check_port_is_free("127.0.0.1", port)
    check_port_is_free("127.0.0.1", port)


def test_haproxy_requires_keys(catalogue):
    haproxy = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    with pytest.raises(ConfigurationError, match="would be open to all"):
        check_open(catalogue.config, haproxy)
    check_open(catalogue.config, {})
    check_open(catalogue.config, {**haproxy, "GALLERIA_READ_KEY": "a key of some length"})
