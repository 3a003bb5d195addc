"""Ray Serve with the service's own ingress, around an application with empty responses: the overhead of Serve."""

import signal
import sys
from typing import Any

from fastapi import FastAPI, Request, Response


def make_app() -> FastAPI:
    """Return an application with an empty response to every search."""
    app = FastAPI()

    @app.post("/v1/search")
    async def search(request: Request) -> Response:
        """Read the body."""
        await request.body()
        return Response(b"{}", media_type="application/json")

    return app


def main(port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    import ray

    from galleria.serving.ingress import direct_ingress

    with direct_ingress(port, one_gateway=True, starting=True) as proxy_port:
        ray.init(address="local", num_cpus=2, object_store_memory=200_000_000, include_dashboard=False)
        from ray import serve

        class Gateway:
            """An empty deployment."""

        serve.start(http_options={"host": "127.0.0.1", "port": proxy_port})
        ingress: Any = serve.ingress(make_app())(Gateway)
        serve.run(serve.deployment(max_ongoing_requests=256)(ingress).bind())
    signal.sigwait([signal.SIGTERM, signal.SIGINT])


if __name__ == "__main__":
    main(int(sys.argv[2]))
