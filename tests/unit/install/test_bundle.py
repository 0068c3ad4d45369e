"""Images and charts from a registry: every part by its hash, in the layout that containerd imports."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragonfly.install.bundle import file_of, images_of, seal
from dragonfly.install.execution import StepFailed
from dragonfly.install.host_survey import airgap
from dragonfly.install.registry import Reference, Registry, reference

CHART_TYPE = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
TOKEN = "for-anybody"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Served:
    """A registry on loopback that gives a token to whoever asks, and blobs only with it, from another place."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, bytes] = {}
        self.told_elsewhere: list[str] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        if path == "/token":
            _send(request, 200, json.dumps({"token": TOKEN}).encode())
        elif path.startswith("/elsewhere/"):
            self.told_elsewhere.append(request.headers.get("Authorization", ""))
            _send(request, 200, self.blobs[path.rpartition("/")[2]])
        elif request.headers.get("Authorization") != f"Bearer {TOKEN}":
            challenge = f'Bearer realm="http://{self.host}/token",service="here"'
            _send(request, 401, b"", {"WWW-Authenticate": challenge})
        elif "/blobs/" in path:
            _send(request, 307, b"", {"Location": f"http://{self.host}/elsewhere/{path.rpartition('/')[2]}"})
        else:
            name = path.rpartition("/")[2]
            found = self.tags.get(name) or self.blobs.get(name)
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


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.shutdown()
    served.server.server_close()


def quiet(text: str) -> None:
    pass


def test_an_image_is_saved_as_containerd_imports_it(served: Served, tmp_path: Path) -> None:
    served.image("plain", (b"layer", "application/vnd.oci.image.layer.v1.tar+gzip"))
    served.index("v1", "amd64", of="plain")
    image = Reference(served.host, "team/app", "v1")

    Registry(scheme="http").save_image(image, "amd64", tmp_path / "app.tar", quiet)

    with tarfile.open(tmp_path / "app.tar") as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]
    assert found["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    (manifest,) = json.loads(found["index.json"])["manifests"]
    assert manifest["annotations"]["io.containerd.image.name"] == f"{served.host}/team/app:v1"
    raw = found[f"blobs/{manifest['digest'].replace(':', '/')}"]
    (layer,) = json.loads(raw)["layers"]
    assert found[f"blobs/{layer['digest'].replace(':', '/')}"] == b"layer"
    assert set(served.told_elsewhere) == {""}, "the token went to somebody else"


def test_an_image_for_another_architecture_is_told(served: Served, tmp_path: Path) -> None:
    served.image("plain", (b"layer", "application/vnd.oci.image.layer.v1.tar"))
    served.index("v1", "arm64", of="plain")

    with pytest.raises(StepFailed, match="is not there for linux/amd64"):
        Registry(scheme="http").save_image(Reference(served.host, "app", "v1"), "amd64", tmp_path / "a", quiet)


def test_a_blob_that_was_altered_is_refused(served: Served, tmp_path: Path) -> None:
    served.image("v1", (b"layer", "application/vnd.oci.image.layer.v1.tar"))
    served.blobs[digest(b"layer")] = b"other"

    with pytest.raises(StepFailed, match="should be sha256"):
        Registry(scheme="http").save_image(Reference(served.host, "app", "v1"), "amd64", tmp_path / "a", quiet)
    assert not (tmp_path / "a").exists()


def test_what_is_not_there_is_told(served: Served) -> None:
    with pytest.raises(StepFailed, match="says 404"):
        Registry(scheme="http").chart(Reference(served.host, "charts/x", "v9"))


def test_a_chart_names_the_images_that_it_starts(served: Served) -> None:
    packed = _chart()
    served.image("v0.25.0", (packed, CHART_TYPE))

    chart = Registry(scheme="http").chart(Reference(served.host, "charts/tinkerbell", "v0.25.0"))

    assert chart == packed
    assert [str(image) for image in images_of(chart)] == [
        "ghcr.io/tinkerbell/tinkerbell:v0.25.0",
        "ghcr.io/a/relay-init:v0.1.0",
        "ghcr.io/kube-vip/kube-vip:v1.0.0",
    ]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("nginx:1.29", "docker.io/library/nginx:1.29"),
        ("team/app:v1", "docker.io/team/app:v1"),
        ("ghcr.io/a/b:v1", "ghcr.io/a/b:v1"),
        ("localhost:5000/a:v1", "localhost:5000/a:v1"),
    ],
)
def test_a_short_name_is_made_whole(text: str, whole: str) -> None:
    assert str(reference(text)) == whole
    assert file_of(reference(text)).endswith(".tar")


def test_a_name_without_a_tag_is_refused() -> None:
    with pytest.raises(StepFailed):
        reference("ghcr.io/a/b")


def test_preflight_takes_what_was_sealed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("k3s", "tinkerbell.tgz", "images/dragonfly.tar"):
        (tmp_path / name).write_text(name)

    seal(tmp_path)

    found = airgap(tmp_path)
    assert (found.missing, found.broken) == ((), ())


def _chart() -> bytes:
    values = {
        "deployment": {
            "image": "ghcr.io/tinkerbell/tinkerbell",
            "imageTag": None,
            "init": {"image": "ghcr.io/a/relay-init:v0.1.0"},
        },
        "optional": {"kubevip": {"image": "ghcr.io/kube-vip/kube-vip:v1.0.0"}},
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in (("Chart.yaml", {"appVersion": "v0.25.0"}), ("values.yaml", values)):
            text = yaml.safe_dump(content).encode()
            entry = tarfile.TarInfo(f"tinkerbell/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return out.getvalue()
