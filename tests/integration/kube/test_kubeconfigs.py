"""Every way into a cluster that a kubeconfig can describe, against a real API server."""

import asyncio
import base64
import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragonfly.kube.channel import Limits, Surroundings
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.errors import Forbidden, Invalid, KubeError, Unreachable
from dragonfly.kube.resources import HARDWARE, SECRET, WORKFLOW
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.pki import Authority

pytestmark = pytest.mark.cluster

Document = dict[str, Any]
IMPATIENT = Limits(deadline=60, attempts=1)


@pytest.fixture
def good(control_plane: ControlPlane) -> Document:
    """The kubeconfig that Dragonfly has in this cluster; change it."""
    document: Document = yaml.safe_load(control_plane.kubeconfig.read_text())
    return document


def cluster_of(document: Document) -> Document:
    found: Document = document["clusters"][0]["cluster"]
    return found


def user_of(document: Document) -> Document:
    found: Document = document["users"][0]["user"]
    return found


def written(path: Path, document: Document) -> Kubeconfig:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return Kubeconfig((path,))


async def lists(source: Kubeconfig) -> bool:
    async with Connection(source, IMPATIENT) as kube:
        return bool((await kube.list(HARDWARE, NAMESPACE)).resource_version)


class Proxy:
    """An HTTP proxy that knows CONNECT; `seen`: what it was asked, with its credentials."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._pipes: set[asyncio.Task[None]] = set()

    async def serve(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        headers = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
        self.seen.append((f"{method} {target}", headers.get("Proxy-Authorization", "")))
        host, port = target.rsplit(":", 1)
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for source, sink in ((reader, back), (there, writer)):
            self._pipes.add(asyncio.create_task(_pipe(source, sink)))


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    made = Proxy()
    yield made
    await made.close()


async def test_contexts_of_several_files_with_relative_paths(good: Document, tmp_path: Path) -> None:
    token = user_of(good).pop("token")
    authority = cluster_of(good).pop("certificate-authority-data")
    here, there = tmp_path / "here", tmp_path / "there"
    user_of(good)["tokenFile"] = "token"
    written(here / "users", {"users": good["users"], "current-context": "second"})
    (here / "token").write_text(f"{token}\n")
    cluster_of(good)["certificate-authority"] = "../pki/ca.crt"
    contexts = [good["contexts"][0] | {"name": name} for name in ("first", "second")]
    contexts[0]["context"] = contexts[0]["context"] | {"user": "nobody"}
    written(there / "clusters", {"clusters": good["clusters"], "contexts": contexts, "current-context": "first"})
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.crt").write_bytes(base64.b64decode(authority))
    files = f"{tmp_path}/missing:{here}/users:{there}/clusters"

    assert await lists(Kubeconfig.from_variable(files))
    with pytest.raises(Invalid, match="no user 'nobody'; there is dragonfly"):
        await lists(Kubeconfig.from_variable(files, "first"))


async def test_an_exec_plugin_that_gives_tokens_and_one_that_stops_doing_so(good: Document, tmp_path: Path) -> None:
    plugin, asked = tmp_path / "bin" / "plugin", tmp_path / "asked"
    plugin.parent.mkdir()
    version = "client.authentication.k8s.io/v1"
    said = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": user_of(good)["token"]}}
    plugin.write_text(f"#!/bin/sh\necho x >> {asked}\ncat <<END\n{json.dumps(said)}\nEND\n")
    plugin.chmod(0o755)
    good["users"][0]["user"] = {"exec": {"apiVersion": version, "command": "bin/plugin"}}
    source = written(tmp_path / "config", good)

    async with Connection(source) as kube:
        for _ in range(3):
            await kube.list(HARDWARE, NAMESPACE)
    assert asked.read_text() == "x\n"  # what has no expiry is asked for once

    plugin.write_text("#!/bin/sh\necho 'sign in again' >&2\nexit 1\n")
    with pytest.raises(Forbidden, match=r"plugin .*/bin/plugin ended with 1: sign in again"):
        await lists(source)


async def test_an_exec_plugin_that_gives_a_client_certificate(
    control_plane: ControlPlane, good: Document, tmp_path: Path
) -> None:
    admin = user_of(yaml.safe_load(control_plane.admin_kubeconfig.read_text()))
    pems = {name: base64.b64decode(admin[f"client-{field}-data"]).decode() for name, field in _STATUS.items()}
    version = "client.authentication.k8s.io/v1beta1"
    said = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": pems})
    (tmp_path / "said").write_text(said)
    user = {"exec": {"apiVersion": version, "command": "cat", "args": [str(tmp_path / "said")]}}
    good["users"][0]["user"] = user

    async with Connection(written(tmp_path / "config", good)) as kube:
        assert (await kube.list(SECRET, "kube-system")).resource_version


_STATUS = {"clientCertificateData": "certificate", "clientKeyData": "key"}


async def test_a_token_that_rotates_is_read_again(control_plane: ControlPlane, good: Document, tmp_path: Path) -> None:
    token = user_of(good).pop("token")
    user_of(good)["tokenFile"] = "token"
    file = tmp_path / "token"
    file.write_text("expired")
    source = written(tmp_path / "config", good)
    ahead = [0.0]
    loop = asyncio.get_running_loop()

    async with Connection(source, IMPATIENT, Surroundings(clock=lambda: loop.time() + ahead[0])) as kube:
        with pytest.raises(Forbidden):
            await kube.list(HARDWARE, NAMESPACE)
        file.write_text(token)
        ahead[0] += 61  # so long a reading is good for
        assert await kube.list(HARDWARE, NAMESPACE)


async def test_through_a_proxy_with_a_password(good: Document, tmp_path: Path, proxy: Proxy) -> None:
    where = await proxy.serve()
    cluster_of(good)["proxy-url"] = f"http://user:pass@{where}"

    async with Connection(written(tmp_path / "config", good), IMPATIENT) as kube:
        await kube.list(HARDWARE, NAMESPACE)
        async for event in kube.watch(HARDWARE, NAMESPACE, "0", timeout=1):
            assert event.type == "BOOKMARK"
            break

    server = cluster_of(good)["server"].removeprefix("https://")
    basic = f"Basic {base64.b64encode(b'user:pass').decode()}"
    assert set(proxy.seen) == {(f"CONNECT {server}", basic)}


async def test_a_proxys_password_is_in_no_message(good: Document, tmp_path: Path) -> None:
    """P11."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        cluster_of(good)["proxy-url"] = f"http://user:hunter2@127.0.0.1:{port}"
        with pytest.raises(Unreachable, match="407") as caught:
            await lists(written(tmp_path / "config", good))

    assert "hunter2" not in caught.value.message


async def test_a_name_that_the_certificate_has_and_one_that_it_has_not(
    good: Document, tmp_path: Path, proxy: Proxy
) -> None:
    cluster_of(good)["tls-server-name"] = "localhost"
    assert await lists(written(tmp_path / "config", good))

    cluster_of(good)["proxy-url"] = f"http://{await proxy.serve()}"
    assert await lists(written(tmp_path / "proxied", good))

    cluster_of(good)["tls-server-name"] = "elsewhere.example"
    with pytest.raises(Unreachable, match="elsewhere"):
        await lists(written(tmp_path / "wrong", good))


async def test_what_is_wrong_is_told_so_that_one_can_mend_it(
    control_plane: ControlPlane, good: Document, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "pki", "stranger", dt.datetime.now(dt.UTC))
    past = Authority(tmp_path / "past", "past", dt.datetime(2020, 1, 1, tzinfo=dt.UTC)).client("admin")
    server = cluster_of(good)["server"]

    async def told(cluster: Document, user: Document | None = None) -> KubeError:
        document = good | {
            "clusters": [{"name": "sandbox", "cluster": cluster_of(good) | cluster}],
            "users": [{"name": "dragonfly", "user": user_of(good) if user is None else user}],
        }
        with pytest.raises(KubeError) as caught:
            await lists(written(tmp_path / "config", document))
        return caught.value

    wrong_ca = await told({"certificate-authority-data": base64.b64encode(stranger.ca.read_bytes()).decode()})
    assert "certificate verify failed" in wrong_ca.message
    expired = await told({}, {"client-certificate": str(past.certificate), "client-key": str(past.key)})
    assert "users[dragonfly].user.client-certificate: expired at 2020-12-31" in expired.message
    assert (await told({"server": "https://127.0.0.1:1"})).message.startswith("https://127.0.0.1:1: ")
    nobody = await told({}, {})
    assert (type(nobody), nobody.status) == (Forbidden, 401)
    plain = await told({"server": server.replace("https", "http")})
    assert "HTTP request to an HTTPS server" in plain.message


async def test_missing_rights_name_the_verb_and_the_resource(control_plane: ControlPlane, good: Document) -> None:
    async with Connection(Kubeconfig((control_plane.kubeconfig,)), IMPATIENT) as kube:
        with pytest.raises(Forbidden, match='cannot list resource "workflows"'):
            await kube.list(WORKFLOW, "kube-system")
