"""What the environment says of Serve's ways to take requests."""

import socket

import pytest

from galleria.errors import ConfigurationError
from galleria.serving.app import check_open
from galleria.serving.ingress import CHOICES, check_free, direct_ingress


def test_one_gateway_listens_itself():
    environment = {"PATH": "/bin"}
    with direct_ingress(8123, 1, True, environment) as proxy_port:
        assert proxy_port not in (0, 8123)
        assert environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
        ports = [int(environment[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX")]
        assert list(range(*ports)) == [8123]
    assert environment == {"PATH": "/bin"}


def test_several_gateways_are_behind_the_proxy():
    environment: dict[str, str] = {}
    with direct_ingress(8123, 2, True, environment) as proxy_port:
        assert proxy_port == 8123
        assert environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"


def test_a_ray_that_runs_already_takes_them_as_it_does():
    environment: dict[str, str] = {}
    with direct_ingress(8123, 1, False, environment) as proxy_port:
        assert (proxy_port, environment) == (8123, {})


@pytest.mark.parametrize("name", CHOICES)
def test_a_way_that_was_chosen_already_goes(name):
    environment = {name: "chosen", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
    with direct_ingress(8123, 1, True, environment) as proxy_port:
        assert proxy_port == 8123
        assert environment == {name: "chosen", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
    assert environment == {name: "chosen", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}


def test_a_port_that_is_taken_is_told_before_anything_starts():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} .*: stop what listens there, or choose another"):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)


def test_behind_haproxy_there_must_be_keys(catalogue):
    haproxy = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    with pytest.raises(ConfigurationError, match="would be open to all"):
        check_open(catalogue.config, haproxy)
    check_open(catalogue.config, {})
    check_open(catalogue.config, {**haproxy, "GALLERIA_READ_KEY": "a key of some length"})
