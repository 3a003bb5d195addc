"""A service in this process behind a real port."""

import contextlib
import threading
import time
from collections.abc import Iterator

from fastapi import FastAPI

from tests.ports import free_port


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of a service in this process."""
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
