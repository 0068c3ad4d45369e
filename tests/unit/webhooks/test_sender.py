"""What counts as delivered, what is told of what does not, and where nothing is sent, on real sockets."""

import asyncio
import collections
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from dragonfly.sandbox.pki import Authority
from dragonfly.sandbox.ports import PortLease
from dragonfly.webhooks.sender import Letter, Sender, Verdict
from dragonfly.webhooks.signature import signature
from tests.contract.waiting import until

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_LOOPBACK = (ip_network("127.0.0.0/8"),)
_SECRETS = ("a" * 32,)

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """Answers every request with the same bytes."""

    def __init__(self, answer: bytes, *, hold: asyncio.Event | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._hold = hold
        self._tls = tls
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append((headers, body))
        if self._hold is not None:
            await self._hold.wait()
        writer.write(self._answer)
        writer.close()


StartReceiver = Callable[..., Awaitable[Receiver]]


@pytest.fixture
def ports() -> Iterator[PortLease]:
    with PortLease() as lease:
        yield lease


@pytest.fixture
async def receiver() -> AsyncIterator[StartReceiver]:
    servers: list[asyncio.Server] = []

    async def start(answer: bytes, **more: Any) -> Receiver:
        receiver = Receiver(answer, **more)
        servers.append(await receiver.start())
        return receiver

    yield start
    for server in servers:
        server.close()


def answered(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def send(url: str, *, ca_bundle: str = "", **settings: Any) -> Verdict:
    given: dict[str, Any] = {"allowed": _LOOPBACK, "plain_http": True, "user_agent": "Dragonfly/test", **settings}
    async with Sender(**given) as sender:
        letter = Letter(url, "updated", "alerts.5.machine.m-1", b'{"a":1}', _SECRETS, ca_bundle)
        return await sender.send(letter, _AT)


async def test_a_delivery_is_signed_and_named(receiver: StartReceiver) -> None:
    there = await receiver(answered("200 OK", b"thanks"))

    verdict = await send(f"http://127.0.0.1:{there.port}/hook?key=k")

    assert (verdict.status, verdict.error, verdict.answer) == (200, "", "thanks")
    ((headers, body),) = there.requests
    assert body == b'{"a":1}'
    assert headers["dragonfly-signature"] == signature(b'{"a":1}', _SECRETS, _AT)
    assert (headers["dragonfly-event"], headers["dragonfly-delivery"]) == ("updated", "alerts.5.machine.m-1")
    assert (headers["content-type"], headers["user-agent"]) == ("application/json", "Dragonfly/test")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (answered("500 Oops"), "answered 500 Oops"),
        (answered("410 Gone"), "answered 410 Gone"),
        (answered("404 Not Found"), "answered 404 Not Found"),
        (b"no http at all\r\n\r\n", "the answer cannot be read"),
        (b"", "the connection was closed before the answer"),
    ],
)
async def test_what_is_no_success_is_told(receiver: StartReceiver, answer: bytes, error: str) -> None:
    there = await receiver(answer)

    verdict = await send(f"http://127.0.0.1:{there.port}/")

    assert verdict.error.startswith(error)
    assert verdict.is_gone == ("410" in error)


async def test_a_redirect_is_not_followed(receiver: StartReceiver) -> None:
    elsewhere = await receiver(answered("200 OK"))
    there = await receiver(answered("307 Temporary Redirect", b"", f"Location: http://127.0.0.1:{elsewhere.port}/"))

    verdict = await send(f"http://127.0.0.1:{there.port}/")

    assert verdict.error.startswith(
        f"answered 307 Temporary Redirect, which leads to http://127.0.0.1:{elsewhere.port}/"
    )
    assert elsewhere.requests == []


async def test_retry_after_is_read_and_nonsense_is_passed_over(receiver: StartReceiver) -> None:
    for text, seconds in (
        ("120", 120.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Thu, 01 Jan 99999999999 00:00:00 GMT", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
    ):
        there = await receiver(answered("503 Busy", b"", f"Retry-After: {text}"))
        assert (await send(f"http://127.0.0.1:{there.port}/")).retry_after == seconds


async def test_only_the_beginning_of_an_answer_is_read(receiver: StartReceiver) -> None:
    there = await receiver(answered("200 OK", b"x" * 5_000_000))

    assert (await send(f"http://127.0.0.1:{there.port}/")).answer == "x" * 1024


async def test_an_answer_that_does_not_come_is_not_waited_for(receiver: StartReceiver) -> None:
    hold = asyncio.Event()
    there = await receiver(answered("200 OK"), hold=hold)

    verdict = await send(f"http://127.0.0.1:{there.port}/", deadline=0.3)
    hold.set()

    assert verdict.error == "no answer within 0.3 s"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_nothing_is_sent_to_this_computer_whatever_name_leads_there(receiver: StartReceiver, host: str) -> None:
    there = await receiver(answered("200 OK"))

    verdict = await send(f"http://{host}:{there.port}/", allowed=())

    assert "loopback address" in verdict.error
    assert there.requests == []


async def test_a_name_that_leads_elsewhere_the_second_time_gains_nothing(
    receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of the very socket is what counts, not an earlier answer of the resolver."""
    there = await receiver(answered("200 OK"))
    answers = iter(["127.0.0.2", "127.0.0.1"])

    def rebound(_host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr("socket.getaddrinfo", rebound)
    allowed = (ip_network("127.0.0.2/32"),)
    async with Sender(allowed=allowed, plain_http=True, user_agent="t") as sender:
        letter = Letter(f"http://rebound.example:{there.port}/", "updated", "d", b"{}", _SECRETS)
        await sender.send(letter, _AT)
        sender._session.connector._cached_hosts.clear()  # type: ignore[union-attr] # an open session has one
        second = await sender.send(letter, _AT)

    assert "127.0.0.1 is a loopback address" in second.error
    assert there.requests == []


async def test_names_whose_servers_do_not_answer_keep_no_other_waiting(
    receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their lookups go on for longer than anybody waits, and there may be several ports of each."""
    there = await receiver(answered("200 OK"))
    end, asked = threading.Event(), collections.Counter[str]()
    look_up = socket.getaddrinfo

    def dead_or_alive(host: str, port: int, *rest: Any, **more: Any) -> Any:
        asked[host] += 1
        if host.startswith("dead"):
            end.wait(60)
            raise socket.gaierror
        return look_up("127.0.0.1", port, *rest, **more)

    monkeypatch.setattr("socket.getaddrinfo", dead_or_alive)
    async with Sender(allowed=_LOOPBACK, plain_http=True, user_agent="t", deadline=5) as sender:
        waiting = [
            asyncio.create_task(sender.send(Letter(f"http://dead-{n}.example:{port}/", "e", "d", b"", _SECRETS), _AT))
            for n in range(20)
            for port in range(8001, 8005)
        ]
        await until(lambda: len(asked) > 1, "they are asked for")
        alive = Letter(f"http://alive.example:{there.port}/", "updated", "d", b"{}", _SECRETS)
        verdict = await sender.send(alive, _AT)
        end.set()
        await asyncio.gather(*waiting)

    assert verdict.error == ""
    assert asked == {f"dead-{n}.example": 1 for n in range(20)} | {"alive.example": 1}


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f.1"])
async def test_nothing_is_sent_by_odd_spellings_of_an_address(receiver: StartReceiver, host: str) -> None:
    there = await receiver(answered("200 OK"))

    assert (await send(f"http://{host}:{there.port}/", allowed=())).error
    assert there.requests == []


async def test_no_proxy_is_asked(receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = await receiver(answered("200 OK"))
    there = await receiver(answered("200 OK"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")

    await send(f"http://127.0.0.1:{there.port}/")

    assert (len(proxy.requests), len(there.requests)) == (0, 1)


async def test_without_tls_only_where_the_settings_allow_it(receiver: StartReceiver) -> None:
    there = await receiver(answered("200 OK"))

    verdict = await send(f"http://127.0.0.1:{there.port}/", plain_http=False)

    assert "no TLS" in verdict.error
    assert there.requests == []


async def test_certificates_are_checked_against_those_that_the_webhook_trusts(
    receiver: StartReceiver, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ours", "ours", datetime.now(UTC))
    pair = authority.server("hook", addresses=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    there = await receiver(answered("200 OK"), tls=tls)
    other = Authority(tmp_path / "other", "other", datetime.now(UTC))

    url = f"https://127.0.0.1:{there.port}/"
    assert (await send(url)).error.startswith("TLS: ")
    assert (await send(url, ca_bundle=other.ca.read_text())).error.startswith("TLS: ")
    assert there.requests == []
    assert (await send(url, ca_bundle=authority.ca.read_text())).error == ""


async def test_what_cannot_be_reached_is_told(ports: PortLease) -> None:
    assert (await send("http://nobody.invalid/")).error == "the host's name is not known"
    assert (await send(f"http://127.0.0.1:{ports.take()}/")).error.startswith("no connection: ")
