import os
import socket
import subprocess
import sys

import pytest

from dragonfly.sandbox.ports import NoFreePort, PortLease, is_free, listener


def test_no_two_leases_have_the_same_port() -> None:
    with PortLease() as first, PortLease() as second:
        ports = [lease.take() for lease in (first, second) for _ in range(50)]

    assert len(set(ports)) == 100


def test_a_port_in_use_is_passed_over() -> None:
    class Fixed:
        """Draws the taken port first."""

        def __init__(self, *numbers: int) -> None:
            self.numbers = list(numbers)

        def randrange(self, _low: int, _high: int) -> int:
            return self.numbers.pop(0)

    with PortLease() as lease, socket.socket() as taken:
        busy, free = lease.take(), lease.take()
        taken.bind(("127.0.0.1", busy))
        taken.listen()
        lease.release()
        with PortLease(Fixed(busy, free)) as other:  # type: ignore[arg-type] # all that it asks of a Random
            assert other.take() == free


def test_a_released_port_can_be_had_again() -> None:
    with PortLease() as lease:
        port = lease.take()
        with pytest.raises(NoFreePort):
            _only(port).take()
    with _only(port) as again:
        assert again.take() == port


def test_a_port_of_another_process_is_its_own_until_that_is_killed() -> None:
    program = "from dragonfly.sandbox.ports import PortLease; p = PortLease(); print(p.take(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        with pytest.raises(NoFreePort):
            _only(port).take()
        other.kill()
    with _only(port) as lease:
        assert lease.take() == port


def test_who_listens_is_told() -> None:
    with PortLease() as lease, socket.socket() as server:
        port = lease.take()
        assert listener(port) is None
        server.bind(("127.0.0.1", port))
        server.listen()

        assert not is_free(port)
        assert f"(pid {os.getpid()})" in (listener(port) or "")


def _only(port: int) -> PortLease:
    class Same:
        def randrange(self, _low: int, _high: int) -> int:
            return port

    return PortLease(Same())  # type: ignore[arg-type] # all that it asks of a Random
