"""A Hugging Face hub of one model, in this process: what huggingface_hub asks for, answered over HTTP from a folder."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
_NAME: Final = "owner/tiny"

#: How the hub refuses: the code of its header `X-Error-Code`, and the status with it.
_REFUSALS: Final = {"missing": (404, "RepoNotFound"), "gated": (403, "GatedRepo")}


@dataclass
class FakeHub:
    """The hub, and what was asked of it.

    Attributes:
        folder: Files of the model `owner/tiny`.
        behaves: As a hub without the model, one that asks for an agreement, or one that is cut off in the middle of
            the weights.
        requests: Method and path of every request, in order.
    """

    folder: Path
    behaves: Literal["well", "missing", "gated", "cut"] = "well"
    address: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)

    def downloaded(self) -> set[str]:
        """Names of the files that were asked for."""
        marker = f"/resolve/{COMMIT}/"
        return {path.partition(marker)[2] for method, path in self.requests if method == "GET" and marker in path}


@contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    """Serve a folder as the model `owner/tiny`; `HF_ENDPOINT` is to be `address`."""
    hub = FakeHub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append((self.command, path))
        if path in (f"/api/models/{_NAME}", f"/api/models/{_NAME}/revision/main") and self.hub.behaves != "missing":
            self._send(json.dumps(self._info()).encode(), has_body=has_body, kind="application/json")
            return
        # From huggingface_hub 2 on.
        if path == f"/api/models/{_NAME}/tree/{COMMIT}":
            self._send(json.dumps(self._tree()).encode(), has_body=has_body, kind="application/json")
            return
        name = path.removeprefix(f"/{_NAME}/resolve/{COMMIT}/")
        file = self.hub.folder / name
        if self.hub.behaves in _REFUSALS or name == path or not file.is_file():
            self._refuse(*_REFUSALS.get(self.hub.behaves, (404, "EntryNotFound")))
            return
        content = file.read_bytes()
        is_cut = self.hub.behaves == "cut" and name.endswith(".safetensors")
        self._send(
            content, has_body=has_body, kind="application/octet-stream", sent=len(content) // 2 if is_cut else None
        )

    def _info(self) -> dict[str, object]:
        names = [{"rfilename": name} for name in self._names()]
        return {"id": _NAME, "sha": COMMIT, "private": False, "siblings": names}

    def _tree(self) -> list[dict[str, object]]:
        sizes = {name: (self.hub.folder / name).stat().st_size for name in self._names()}
        return [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]

    def _names(self) -> list[str]:
        return sorted(str(path.relative_to(self.hub.folder)) for path in self.hub.folder.rglob("*") if path.is_file())

    def _send(self, content: bytes, *, has_body: bool, kind: str, sent: int | None = None) -> None:
        """Answer with a content, or with its first `sent` bytes where more were announced."""
        start = 0
        if (wanted := self.headers.get("Range")) is not None:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if has_body:
            self.wfile.write(content[start : sent if sent is None else max(start, sent)])

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "no")
        self.send_header("Content-Length", "0")
        self.end_headers()
