"""The socket that systemd hands over."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from dragonfly.settings import Address, Settings
from dragonfly.startup import StartError, handed_over, taken_over

PID = 4_711


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def settings(port: int) -> Settings:
    return Settings(advertise=Address("127.0.0.1", port), replica="a", listen=Address("127.0.0.1", port))


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"LISTEN_FDS": "1"}, None),
        ({"LISTEN_PID": "4712", "LISTEN_FDS": "1"}, None),
        ({"LISTEN_PID": "x", "LISTEN_FDS": "1"}, None),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "1"}, 3),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "dragonfly.socket"}, 3),
    ],
)
def test_one_socket_for_this_process_is_taken(environment: dict[str, str], found: int | None) -> None:
    assert handed_over(environment, PID) == found


@pytest.mark.parametrize("number", ["0", "2", "-1", "one", ""])
def test_more_or_less_than_one_is_told(number: str) -> None:
    with pytest.raises(StartError, match=f"^LISTEN_FDS={number}: a replica takes one socket"):
        handed_over({"LISTEN_PID": str(PID), "LISTEN_FDS": number}, PID)


def test_the_socket_is_served_on_and_nobody_inherits_it(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    with taken_over(os.dup(listening.fileno()), settings(port)) as taken:
        assert taken.getsockname() == listening.getsockname()
        assert not taken.get_inheritable()


def test_another_port_than_others_are_told_is_refused(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    with pytest.raises(StartError, match=f"systemd hands over port {port}, and --listen says 127.0.0.1:1:"):
        taken_over(os.dup(listening.fileno()), settings(1))


def test_what_does_not_listen_for_tcp_is_refused() -> None:
    words = "is no socket that listens for TCP"
    with socket.socket() as idle, pytest.raises(StartError, match=words):
        taken_over(os.dup(idle.fileno()), settings(1))
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(StartError, match=words):
        taken_over(os.dup(ours.fileno()), settings(1))
    reading, writing = os.pipe()
    try:
        with pytest.raises(StartError, match=f"file descriptor {reading}, which systemd hands over: "):
            taken_over(reading, settings(1))
    finally:
        os.close(reading)
        os.close(writing)
