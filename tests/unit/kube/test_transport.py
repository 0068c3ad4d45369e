"""The sockets of a connection to an API server: when it is closed, so are they."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest

from dragonfly.kube import transport
from dragonfly.kube.credentials import Login
from dragonfly.kube.errors import UNTRUSTED, Unreachable
from dragonfly.kube.transport import Progress, Request, Transport
from dragonfly.sandbox.pki import Authority

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """All sockets that the transport opens."""
    opened: list[socket.socket] = []
    real = transport._socket

    def opens(address: aiohttp.AddrInfoType) -> socket.socket:
        opened.append(real(address))
        return opened[-1]

    monkeypatch.setattr(transport, "_socket", opens)
    return opened


@contextlib.asynccontextmanager
async def answering(directory: Path, answer: bytes) -> AsyncIterator[Login]:
    """A TLS server that says this to each request, and no more."""
    authority = Authority(directory, "test", datetime.now(UTC))
    pair = authority.server("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Login(
            server=f"https://127.0.0.1:{port}",
            authorization="",
            tls=authority.context(),
            identity=1,
            server_side=1,
            server_hostname="",
            proxy="",
            valid_for=60,
        )
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def test_a_watch_that_was_given_up_leaves_no_socket(tmp_path: Path, sockets: list[socket.socket]) -> None:
    async with answering(tmp_path, HEAD + b"2\r\n{}\r\n") as login:
        sender = Transport(login, "test")
        async with sender.stream("/watch", "", opening=10, silence=10) as (_, pieces):
            assert await anext(pieces) == b"{}"

        await sender.close()

        assert [sock.fileno() for sock in sockets] == [-1]


async def test_a_call_that_was_cut_off_leaves_no_socket(tmp_path: Path, sockets: list[socket.socket]) -> None:
    async with answering(tmp_path, b"") as login:
        sender, progress = Transport(login, "test"), Progress()
        call = asyncio.create_task(sender.exchange(Request("GET", "/"), "", progress))
        async with asyncio.timeout(60):
            while not progress.sent:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        await sender.close()

        assert [sock.fileno() for sock in sockets] == [-1]


@pytest.mark.parametrize(
    ("is_its_own", "name", "words"),
    [
        (False, "", "(the kubeconfig's certificate-authority is not its issuer)"),
        (True, "elsewhere.example", "'elsewhere.example' (tls-server-name may say another name)"),
    ],
)
async def test_a_certificate_that_is_not_trusted_is_told_with_what_the_kubeconfig_has_to_do_with_it(
    tmp_path: Path, is_its_own: bool, name: str, words: str
) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger", datetime.now(UTC)).context()
    async with answering(tmp_path / "server", HEAD) as login:
        changed = {"server_hostname": name} if is_its_own else {"tls": stranger}
        sender = Transport(msgspec.structs.replace(login, **changed), "test")
        try:
            with pytest.raises(Unreachable) as caught:
                await sender.exchange(Request("GET", "/version"), "", Progress())
        finally:
            await sender.close()

    assert caught.value.reason == UNTRUSTED
    assert caught.value.message.startswith(f"{login.server}: TLS: certificate verify failed: ")
    assert caught.value.message.endswith(words)


def connector_error(kind: type[aiohttp.ClientConnectorError], error: OSError) -> aiohttp.ClientConnectorError:
    key: Any = SimpleNamespace(host="k", port=6443, ssl=None)
    return kind(key, error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            connector_error(
                aiohttp.ClientConnectorError, ConnectionRefusedError(111, "Connect call failed ('::1', 1)")
            ),
            "connection refused by k:6443",
        ),
        (
            connector_error(aiohttp.ClientProxyConnectionError, ConnectionRefusedError(111, "refused")),
            "connection refused by proxy k:6443",
        ),
        (
            connector_error(aiohttp.ClientConnectorError, OSError(101, "Connect call failed")),
            "no connection to k:6443: Network is unreachable",
        ),
        (
            connector_error(aiohttp.ClientConnectorError, OSError("Multiple exceptions: a, b")),
            "no connection to k:6443: Multiple exceptions: a, b",
        ),
        (connector_error(aiohttp.ClientConnectorDNSError, OSError(-2, "Name or service")), "the name k is not known"),
        (aiohttp.ConnectionTimeoutError("Connection timeout to host k"), "no connection within 5 s"),
        (aiohttp.ServerDisconnectedError(), "the connection was closed before the answer"),
        (ConnectionResetError(104, "Connection reset by peer"), "the connection was closed before the answer"),
        (TimeoutError(), "no answer in time"),
        (aiohttp.ClientPayloadError("cut off"), "ClientPayloadError: cut off"),
    ],
)
def test_what_happened_is_told_in_plain_words(error: Exception, words: str) -> None:
    assert transport.words_of("https://k:6443", error) == f"https://k:6443: {words}"
