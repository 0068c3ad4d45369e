"""The sockets of a connection to an API server: when it is closed, so are they."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from dragonfly.kube import transport
from dragonfly.kube.credentials import Login
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
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await sender.exchange(Request("GET", "/"), "", progress)

        await sender.close()

        assert progress.sent
        assert [sock.fileno() for sock in sockets] == [-1]
