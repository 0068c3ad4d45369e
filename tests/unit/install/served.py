"""A server on loopback that is a registry of images and charts, and has files for anybody."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import yaml

CHART_TYPE = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
TOKEN = "for-anybody"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Served:
    """A registry on loopback that gives a token to whoever asks, and blobs only with it, from another place."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, bytes] = {}
        self.by_name: dict[str, bytes] = {}
        """Of `repository:tag`; goes before the tag alone."""
        self.told_elsewhere: list[str] = []
        self.files: dict[str, bytes] = {}
        """What anybody may have, by its path."""
        self.cut_off: set[str] = set()
        """Paths whose answer ends half-way."""
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        if path in self.files:
            content = self.files[path]
            _send(request, 200, content, cut=len(content) // 2 if path in self.cut_off else None)
        elif path == "/token":
            _send(request, 200, json.dumps({"token": TOKEN}).encode())
        elif path.startswith("/elsewhere/"):
            self.told_elsewhere.append(request.headers.get("Authorization", ""))
            _send(request, 200, self.blobs[path.rpartition("/")[2]])
        elif not path.startswith("/v2/"):
            _send(request, 404, b"")
        elif request.headers.get("Authorization") != f"Bearer {TOKEN}":
            challenge = f'Bearer realm="http://{self.host}/token",service="here"'
            _send(request, 401, b"", {"WWW-Authenticate": challenge})
        elif "/blobs/" in path:
            _send(request, 307, b"", {"Location": f"http://{self.host}/elsewhere/{path.rpartition('/')[2]}"})
        else:
            repository, _, name = path.removeprefix("/v2/").partition("/manifests/")
            found = self.by_name.get(f"{repository}:{name}") or self.tags.get(name) or self.blobs.get(name)
            _send(request, 200 if found else 404, found or b"")

    def put(self, content: bytes, media_type: str) -> dict[str, Any]:
        self.blobs[digest(content)] = content
        return {"mediaType": media_type, "digest": digest(content), "size": len(content)}

    def image(self, tag: str, *layers: tuple[bytes, str]) -> None:
        manifest = {
            "schemaVersion": 2,
            "config": self.put(b"{}", "application/vnd.oci.image.config.v1+json"),
            "layers": [self.put(*layer) for layer in layers],
        }
        self.tags[tag] = json.dumps(manifest).encode()

    def index(self, tag: str, architecture: str, of: str) -> None:
        one = self.put(self.tags[of], "application/vnd.oci.image.manifest.v1+json")
        one["platform"] = {"os": "linux", "architecture": architecture}
        self.tags[tag] = json.dumps({"schemaVersion": 2, "manifests": [one]}).encode()


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    cut: int | None = None,
) -> None:
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body[:cut])


def packed_chart(registry: str = "ghcr.io") -> bytes:
    """A chart with as much of Tinkerbell's as a bundle reads."""
    values = {
        "deployment": {
            "image": f"{registry}/tinkerbell/tinkerbell",
            "imageTag": None,
            "init": {"image": f"{registry}/a/relay-init:v0.1.0"},
        },
        "optional": {"kubevip": {"image": f"{registry}/kube-vip/kube-vip:v1.0.0"}},
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in (("Chart.yaml", {"appVersion": "v0.25.0"}), ("values.yaml", values)):
            text = yaml.safe_dump(content).encode()
            entry = tarfile.TarInfo(f"tinkerbell/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return out.getvalue()
