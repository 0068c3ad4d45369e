"""Who gets through a site's gate, how late, and who does not."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from dragonfly.sandbox.gates import Gates, host_of, named
from dragonfly.sandbox.ports import LOOPBACK, PortLease


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it gets; its URL."""
    with socket.create_server((LOOPBACK, 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield f"https://{LOOPBACK}:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def gates(echo: str) -> Iterator[Gates]:
    with PortLease() as ports:
        places = {"fra1": ports.take(), "ber1": ports.take()}
        nowhere = f"https://{LOOPBACK}:{ports.take()}"
        routes = {"fra1": ["fra", "gone"], "ber1": ["gone"]}
        with Gates(places, {"fra": echo, "gone": nowhere}, routes) as gates:
            yield gates


def _serve(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)


@contextmanager
def through(gates: Gates, site: str, cluster: str) -> Iterator[tuple[socket.socket, str]]:
    """A connection through a site's gate, and what the gate answered."""
    port = int(gates.environment(site)["HTTPS_PROXY"].rpartition(":")[2])
    with socket.create_connection((LOOPBACK, port), timeout=60) as connection:
        connection.sendall(f"CONNECT {host_of(cluster)}:6443 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        yield connection, head.decode().split(" ", 2)[1]


def test_a_gate_leads_where_it_should_and_nowhere_else(gates: Gates) -> None:
    with through(gates, "fra1", "fra") as (connection, status):
        connection.sendall(b"hello")
        assert (status, connection.recv(100)) == ("200", b"hello")
    for site, cluster, refused in (("ber1", "fra", "403"), ("fra1", "gone", "502"), ("fra1", "unknown", "403")):
        with through(gates, site, cluster) as (_, status):
            assert status == refused

    assert gates.passed == {"fra1": 1}


def test_what_a_server_sends_is_kept_back_until_it_is_healed(gates: Gates) -> None:
    with through(gates, "fra1", "fra") as (connection, _):
        gates.slow("fra", 3600)
        connection.sendall(b"hello")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        gates.heal("fra")
        connection.settimeout(60)
        assert connection.recv(100) == b"hello"


def test_a_kubeconfig_leads_to_the_name_that_gates_know() -> None:
    cluster = {"server": "https://127.0.0.1:30000", "certificate-authority-data": "Y2E="}

    found = yaml.safe_load(named(yaml.safe_dump({"clusters": [{"name": "sandbox", "cluster": cluster}]}), "fra"))

    assert found["clusters"][0]["cluster"] == {
        "server": "https://fra.example:6443",
        "tls-server-name": "localhost",
        "certificate-authority-data": "Y2E=",
    }
