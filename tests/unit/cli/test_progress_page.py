"""The page that shows an installation: what is on it, who may ask for it, and how long it is there."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from dragonfly.cli.errors import Exit
from dragonfly.cli.install import open_page
from dragonfly.cli.main import run
from dragonfly.cli.progress_page import ProgressPage
from dragonfly.install.execution import Event
from dragonfly.install.progress import planned
from dragonfly.install.steps import MakeDirectory, Plan, Step
from dragonfly.settings import Address

PLAN = Plan(
    tuple(
        Step(name, f"Make {name}", f"{name} is there", "", MakeDirectory(f"/{name}")) for name in ("settings", "data")
    )
)


@pytest.fixture
def page() -> Iterator[ProgressPage]:
    with ProgressPage(Address("127.0.0.1", 0), planned("node-1", PLAN)) as page:
        yield page


@contextmanager
def asked(page: ProgressPage, path: str, *, method: str = "GET", host: str = "") -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(page.address.host, page.address.port, timeout=20)
    connection.request(method, path, headers={"Host": host, "Connection": "close"} if host else {"Connection": "close"})
    with closing(connection), connection.getresponse() as answer:
        yield answer


def status(page: ProgressPage, path: str, *, method: str = "GET", host: str = "") -> int:
    with asked(page, path, method=method, host=host) as answer:
        return answer.status


def progress(page: ProgressPage) -> dict[str, Any]:
    with asked(page, "/progress") as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def last(stream: http.client.HTTPResponse) -> dict[str, Any]:
    """What it ends with."""
    found: dict[str, Any] = json.loads(stream.read().split(b"data: ")[-1])
    return found


def states(page: ProgressPage) -> list[tuple[str, str]]:
    return [(step["state"], step["says"]) for step in progress(page)["steps"]]


def test_states_change_as_steps_do(page: ProgressPage) -> None:
    assert states(page) == [("waiting", ""), ("waiting", "")]

    page(Event("step", "settings", "Make settings", "started", 1, 2))
    page(Event("progress", "settings", "3 MiB"))
    assert states(page) == [("started", "3 MiB"), ("waiting", "")]

    page(Event("step", "settings", "settings is there", "done", 1, 2))
    page(Event("step", "data", "it is there", "unchanged", 2, 2))
    assert states(page) == [("done", "settings is there"), ("unchanged", "it is there")]
    assert progress(page)["outcome"] == "running"


def test_who_looks_on_is_told_the_end_and_then_nobody_serves(page: ProgressPage) -> None:
    with asked(page, "/events") as stream:
        first = json.loads(stream.readline().removeprefix(b"data: "))
        assert first["outcome"] == "running"
        page(Event("step", "settings", "no space left", "failed", 1, 2))

        page.end("failed", "Make settings: no space left", "To go on from there: dragonfly install")
        page.__exit__(None, None, None)

        found = last(stream)
    assert found["steps"][0]["state"] == "failed"
    assert (found["outcome"], found["message"]) == ("failed", "Make settings: no space left")
    assert found["advice"] == "To go on from there: dragonfly install"
    with pytest.raises(ConnectionRefusedError):
        status(page, "/")


def test_what_ends_without_a_word_was_interrupted() -> None:
    with ExitStack() as stack:
        with ProgressPage(Address("127.0.0.1", 0), planned("node-1", PLAN)) as page:
            stream = stack.enter_context(asked(page, "/events"))
            stream.readline()

        assert last(stream)["message"] == "The installation was interrupted."


@pytest.mark.parametrize("path", ["/", "/progress", "/events"])
def test_it_only_reads(page: ProgressPage, path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert status(page, path, method=method) == http.client.METHOD_NOT_ALLOWED


def test_nobody_reads_it_by_another_name(page: ProgressPage) -> None:
    assert status(page, "/progress", host="attacker.example.com") == http.client.BAD_REQUEST
    for own in ("localhost", "127.0.0.1", "[::1]"):
        assert status(page, "/progress", host=f"{own}:{page.address.port}") == http.client.OK


def test_nothing_from_elsewhere_gets_in(page: ProgressPage) -> None:
    with asked(page, "/") as answer:
        assert "default-src 'none'" in str(answer.headers["Content-Security-Policy"])
        assert answer.headers["Cache-Control"] == "no-store"
        assert b"//" not in answer.read()
    assert status(page, "/elsewhere") == http.client.NOT_FOUND


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        ProgressPage(Address("127.0.0.1", taken.getsockname()[1]), planned("node-1", PLAN))


def test_without_the_port_the_installation_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with open_page(address, "node-1", PLAN, as_json=False) as page:
            assert page is None

    assert f"no page shows the progress: {address}: Address already in use" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["3001", "example.com:3001", "127.0.0.1:0", "127.0.0.1"])
def test_an_address_that_makes_no_sense_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", "--progress-page", text, "--yes"]) == Exit.USAGE

    assert "--progress-page: must be an address of this host and a port" in capsys.readouterr().err
