"""Deliveries over HTTP: one POST, one verdict.

No redirect is followed, no proxy is asked, and no connection is made to an address that `addresses` refuses: it is
asked about the very address that a socket is made for, after the name was resolved, so that a name that leads elsewhere
the second time gains nothing.
"""

import socket
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
import structlog

from dragonfly.settings import Network
from dragonfly.webhooks.addresses import refusal
from dragonfly.webhooks.resolver import Resolver
from dragonfly.webhooks.signature import HEADER, signature

_log = structlog.get_logger(__name__)

_DEADLINE: Final = 10.0

_READ: Final = 1024
"""Bytes of an answer that are looked at."""

_GONE: Final = 410


class Letter(NamedTuple):
    """What is sent."""

    url: str
    event: str
    delivery: str
    """Stays the same over all attempts."""
    body: bytes
    secrets: tuple[str, ...]
    ca_bundle: str = ""


class Verdict(NamedTuple):
    """What became of an attempt."""

    seconds: float
    status: int = 0
    """0 without an answer."""
    error: str = ""
    """Why it does not count as delivered, for people; empty if it does."""
    answer: str = ""
    """The beginning of the answer's body."""
    retry_after: float = 0.0
    """Seconds that the receiver asked to be left alone."""

    @property
    def is_gone(self) -> bool:
        """The receiver wants no more deliveries at all."""
        return self.status == _GONE


class _RefusedAddress(OSError):
    """Nothing is sent there."""


class Sender:
    """Keeps connections to receivers; used as a context."""

    def __init__(
        self, *, allowed: Sequence[Network], plain_http: bool, user_agent: str, deadline: float = _DEADLINE
    ) -> None:
        """Make it.

        Args:
            allowed: networks that may be sent to although such addresses are refused.
            plain_http: whether URLs without TLS may be sent to.
            user_agent: how it is called in requests.
            deadline: seconds for a delivery, all included.
        """
        self._allowed = tuple(allowed)
        self._plain_http = plain_http
        self._user_agent = user_agent
        self._deadline = deadline

    async def __aenter__(self) -> Self:
        self._resolver = Resolver()
        # No happy eyeballs: its race wraps what `_socket` raises once more for each address.
        # Nor a limit: one slow receiver would use it up for the others; each webhook has a few under way at most.
        connector = aiohttp.TCPConnector(
            limit=0, socket_factory=self._socket, happy_eyeballs_delay=None, resolver=self._resolver
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._deadline),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=_READ,
            headers={"User-Agent": self._user_agent},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._resolver.close()

    async def send(self, letter: Letter, at: datetime) -> Verdict:
        """Make one attempt; whatever goes wrong is in the verdict.

        Args:
            letter: what to send.
            at: the time, which is signed.
        """
        began = time.monotonic()
        if urlsplit(letter.url).scheme != "https" and not self._plain_http:
            return Verdict(0.0, error="the URL has no TLS, and this replica's settings do not allow that")
        try:
            verdict = await self._post(letter, at)
        except TimeoutError:
            verdict = Verdict(0.0, error=f"no answer within {self._deadline:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            verdict = Verdict(0.0, error=_words(error))
        except Exception as error:  # a bug here must not look like a receiver that has not answered yet
            _log.exception("webhook.bug")
            verdict = Verdict(0.0, error=_words(error))
        return verdict._replace(seconds=round(time.monotonic() - began, 3))

    async def _post(self, letter: Letter, at: datetime) -> Verdict:
        headers = {
            "Content-Type": "application/json",
            "Dragonfly-Event": letter.event,
            "Dragonfly-Delivery": letter.delivery,
            HEADER: signature(letter.body, letter.secrets, at),
        }
        tls = _trusting(letter.ca_bundle) if letter.ca_bundle else True
        async with self._session.post(
            letter.url, data=letter.body, headers=headers, allow_redirects=False, ssl=tls
        ) as response:
            begun = await _beginning(response)
            return _verdict(response, begun)

    def _socket(self, info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if why := refusal(str(address[0]), self._allowed):
            raise _RefusedAddress(f"{why}; nothing is sent there unless DRAGONFLY_WEBHOOK_ALLOW allows it")
        return socket.socket(family=family, type=kind, proto=protocol)


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """Read what is looked at; what a receiver sends beyond that is nobody's concern, and its connection is closed."""
    found = b""
    while len(found) < _READ and (chunk := await response.content.read(_READ - len(found))):
        found += chunk
    if not response.content.at_eof():
        response.close()
    return found.decode("utf-8", "replace")


def _verdict(response: aiohttp.ClientResponse, answer: str) -> Verdict:
    status = response.status
    if 200 <= status < 300:
        return Verdict(0.0, status, answer=answer)
    error = f"answered {status} {response.reason or ''}".strip()
    if 300 <= status < 400:
        onward = response.headers.get("Location", "nowhere")
        error += f", which leads to {onward[:200]}: redirects are not followed; set that URL if it is right"
    return Verdict(0.0, status, error, answer, _seconds(response.headers.get("Retry-After", "")))


def _seconds(text: str) -> float:
    """Return what `Retry-After` asks for, in seconds or as a date; 0 if it can't be read."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year that C has no number for
        return 0.0
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _words(error: Exception) -> str:
    """Say what went wrong; never the URL, whose query may hold a key."""
    match error:
        case aiohttp.InvalidURL():
            return "the URL cannot be used"
        case aiohttp.ClientConnectorDNSError():
            return "the host's name is not known"
        case aiohttp.ClientConnectorCertificateError():
            return f"TLS: {error.certificate_error}"
        case aiohttp.ClientConnectorSSLError():
            return f"TLS: {error.os_error}"
        case aiohttp.ClientConnectorError():
            cause = error.os_error
            return str(cause) if isinstance(cause, _RefusedAddress) else f"no connection: {cause.strerror or cause}"
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return "the connection was closed before the answer"
        case aiohttp.ClientError():
            return f"the answer cannot be read: {type(error).__name__}"
        case _:
            return f"cannot be sent: {type(error).__name__}"


@lru_cache(maxsize=64)
def _trusting(bundle: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=bundle)
