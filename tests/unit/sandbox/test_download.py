"""The published archive, from a server of the test's own: taken only if it is what is pinned."""

import hashlib
import http.server
import io
import platform
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dragonfly.sandbox import download, golang, toolchain
from dragonfly.sandbox.download import Archive
from dragonfly.sandbox.progress import SILENT

Publish = Callable[[bytes, str], Archive]


def archive_of(*names: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as content:
        for name in names:
            member = tarfile.TarInfo(f"controller-tools/envtest/{name}")
            member.size = len(name)
            content.addfile(member, io.BytesIO(name.encode()))
    return packed.getvalue()


WHOLE = archive_of(*sorted(download.NAMES))


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    """Puts an archive on a server and pins it; a second argument pins another hash."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in ("DRAGONFLY_SANDBOX_BIN", "KUBEBUILDER_ASSETS"):
        monkeypatch.delenv(variable, raising=False)
    served: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(served[self.path])

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()

    def put(content: bytes, sha512: str = "") -> Archive:
        served["/archive"] = content
        url = f"http://127.0.0.1:{server.server_port}/archive"
        made = Archive("v1", url, sha512 or hashlib.sha512(content).hexdigest())
        monkeypatch.setattr(download, "_ARCHIVES", {platform.machine(): made})
        return made

    yield put
    server.shutdown()
    server.server_close()


def no_build(*_: object) -> Path:
    raise golang.BuildFailed("no Go here")


def test_the_published_programs_are_taken_instead_of_a_build(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(WHOLE, "")
    monkeypatch.setattr(golang, "find_go", no_build)

    found = toolchain.ensure(sorted(download.NAMES), SILENT)

    assert {name: path.read_text() for name, path in found.items()} == {name: name for name in download.NAMES}
    assert all(path.stat().st_mode & 0o111 for path in found.values())
    assert toolchain.find("etcd") == found["etcd"], "a second time nothing is downloaded"


def test_an_archive_that_is_not_the_pinned_one_is_thrown_away(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(WHOLE, "0" * 128)
    monkeypatch.setattr(golang, "find_go", no_build)

    with pytest.raises(toolchain.ToolMissing) as missing:
        toolchain.binary("etcd")

    assert "has not the pinned SHA-512" in str(missing.value)
    assert "a build with Go: no Go here" in str(missing.value)
    assert toolchain.find("etcd") is None
    assert not list(toolchain.downloaded().directory.parent.glob("building-*"))


def test_an_archive_without_a_program_is_of_no_use(publish: Publish, tmp_path: Path) -> None:
    wanted = publish(archive_of("etcd"), "")

    with pytest.raises(download.NoDownload, match="kube-apiserver is not in the archive"):
        download.fetch(wanted, ["etcd", "kube-apiserver"], tmp_path)


def test_without_internet_it_is_said_and_the_rest_is_built(tmp_path: Path) -> None:
    nowhere = Archive("v1", "http://127.0.0.1:1/archive", "")

    with pytest.raises(download.NoDownload, match="can't be reached"):
        download.fetch(nowhere, ["etcd"], tmp_path)


def test_each_pinned_archive_has_a_sha_512() -> None:
    assert {len(archive.sha512) for archive in download._ARCHIVES.values()} == {128}
