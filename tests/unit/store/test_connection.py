"""Why a connection to etcd could not be made, in words for people."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from urllib3.connection import HTTPConnection, HTTPSConnection

from dragonfly.store.connection import Connection
from dragonfly.store.faults import Fault


def fault(link: HTTPConnection) -> Fault:
    with pytest.raises(Fault) as found:
        Connection(link, time.monotonic)
    return found.value


def test_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    found = fault(HTTPSConnection("127.0.0.1", port, timeout=10))

    assert (found.reason, found.unsent) == (f"can't connect to 127.0.0.1:{port}: Connection refused", True)


def test_a_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        found = fault(HTTPSConnection("127.0.0.1", port, timeout=0.1))

    assert found.reason == f"can't connect to 127.0.0.1:{port}: the TLS handshake was not answered in time"


def test_a_server_without_tls() -> None:
    def answer(server: socket.socket) -> None:
        link, _ = server.accept()
        with link:
            link.recv(4096)
            link.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answering = threading.Thread(target=answer, args=(server,))
        answering.start()
        found = fault(HTTPSConnection("127.0.0.1", port, timeout=10))
        answering.join()

    # What more it says depends on OpenSSL.
    assert found.reason.startswith(f"can't connect to 127.0.0.1:{port}: [SSL")
    assert "_ssl.c" not in found.reason
