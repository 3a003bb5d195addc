"""Ports of this machine that nobody listens on."""

import contextlib
import random
import socket

PORTS = range(20_000, 30_000)
"""Above Ray's own, and below those that the system gives to outgoing connections: none of them takes one meanwhile."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return several different ones."""
    chooser = random.SystemRandom()  # a test may have fixed the seed of the other one
    ports: set[int] = set()
    while len(ports) < count:
        port = chooser.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return list(ports)
