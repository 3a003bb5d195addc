"""Requests without pause, from several clients at a time, while something happens to the service."""

import threading
from collections import Counter
from collections.abc import Callable

import httpx

Ask = Callable[[httpx.Client], tuple[bool, str]]
"""One request; whether its answer is right, and what to count it under."""


class Load:
    """Asks for as long as a block lasts, each client one request after the other.

    Attributes:
        answers: how often each outcome was seen.
    """

    def __init__(self, address: str, ask: Ask, clients: int = 3) -> None:
        self._address = address
        self._ask = ask
        self.answers: Counter[tuple[bool, str]] = Counter()
        self._ended = threading.Event()
        self._clients = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        for client in self._clients:
            client.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._address, timeout=60, trust_env=False) as client:
            while not self._ended.is_set():
                try:
                    outcome = self._ask(client)
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    outcome = False, repr(error)
                self.answers[outcome] += 1
