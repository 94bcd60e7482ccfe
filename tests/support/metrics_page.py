"""A server of pages of metrics, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer


class MetricsServer(HTTPServer):
    """Serves each page once, and the last one from then on."""

    pages: list[bytes]

    @property
    def address(self) -> str:
        """Its host:port."""
        return f"127.0.0.1:{self.server_port}"


class _Page(BaseHTTPRequestHandler):
    server: MetricsServer

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        pages = self.server.pages
        self.wfile.write(pages.pop(0) if len(pages) > 1 else pages[0])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(*pages: bytes) -> Iterator[MetricsServer]:
    """Serve these pages."""
    with MetricsServer(("127.0.0.1", 0), _Page) as server:
        server.pages = list(pages)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def triton_page(model: str, **values: float) -> bytes:
    """A page of Triton with these metrics of one model, without the prefix `nv_inference_`."""
    lines = [f'nv_inference_{name}{{model="{model}",version="1"}} {value}' for name, value in values.items()]
    return "\n".join([*lines, ""]).encode()
