"""What stands behind the proxies: upstreams that answer with what reached them.

HTTP on 127.0.0.1:9000 and gRPC on 127.0.0.1:9001, as the files of deploy/ expect. With the
certificate of the directory named, the pages of this folder also come from a site of their own on
127.0.0.1:10444, for the browser.
"""

import asyncio
import json
import sys
from pathlib import Path

import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

PAGES = Path(__file__).parent / "pages"
METHODS = ["GET", "POST", "PUT", "DELETE"]


async def page(request: Request) -> Response:
    """Serve a page of the folder by its name."""
    name = request.path_params["name"]
    known = {path.name for path in PAGES.iterdir()}
    return FileResponse(PAGES / name) if name in known else Response(status_code=404)


async def echo(request: Request) -> Response:
    """Answer with the request's method, path and headers."""
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        headers.setdefault(name, []).append(value)
    return JSONResponse({"method": request.method, "path": request.url.path, "headers": headers})


async def failing(_request: Request) -> Response:
    """Fail as an application of its own does."""
    return Response("the application's own error", status_code=500)


APP = Starlette(
    routes=[
        Route("/pages/{name}", page),
        Route("/{prefix}/failing", failing),
        Route("/{rest:path}", echo, methods=METHODS),
    ]
)


class Echo(grpc.GenericRpcHandler):
    """Any unary method: answers with the metadata, as JSON."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return the handler of every method there is."""
        metadata = {pair[0]: pair[1] for pair in details.invocation_metadata}

        async def answer(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
            return json.dumps({"method": details.method, "headers": metadata}, default=repr).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


async def serve(certificates: Path | None) -> None:
    """Serve all of them until a signal comes."""
    server = grpc.aio.server(handlers=[Echo()])
    if not server.add_insecure_port("127.0.0.1:9001"):
        sys.exit("127.0.0.1:9001 is taken")
    await server.start()
    configs = [uvicorn.Config(APP, port=9000, log_level="warning")]
    if certificates is not None:
        key, certificate = certificates / "tls.key", certificates / "tls.crt"
        configs.append(
            uvicorn.Config(
                *(APP,), port=10444, log_level="warning", ssl_keyfile=key, ssl_certfile=certificate
            )
        )
    await asyncio.gather(*(uvicorn.Server(config).serve() for config in configs))
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
