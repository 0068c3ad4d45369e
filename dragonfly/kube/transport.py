"""One HTTP session to one API server: bytes in, bytes out, and whether a request that failed was sent.

`kubernetes.aio` has two layers here: `ApiClient` walks each body to sanitise it, `RESTClientObject.request` encodes
with the json module, and neither can tell whether a request that failed had left. Dragonfly takes the library's
configuration and TLS, and speaks HTTP itself.
"""

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Final, NamedTuple

import aiohttp
from aiohttp.connector import Connection as Bound
from aiohttp.tracing import Trace
from yarl import URL

from dragonfly.kube.credentials import Login
from dragonfly.kube.errors import UNTRUSTED, Unreachable

_CONNECT: Final = 5.0
"""Seconds for TCP and TLS: a cluster that does not even accept a connection is not worth the whole deadline."""

_PATIENT: Final = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT)
"""The deadline of a call is its caller's."""

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
"""A peer that vanished without a word ends a quiet watch after 9 s, with no traffic of our own (P6). Not
every platform has all of these."""


_OF_ANOTHER: Final = "(the kubeconfig's certificate-authority is not its issuer)"
_MISTRUST: Final = {
    # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, SELF_SIGNED_CERT_IN_CHAIN, UNABLE_TO_GET_ISSUER_CERT(_LOCALLY),
    # UNABLE_TO_VERIFY_LEAF_SIGNATURE and CERT_SIGNATURE_FAILURE of OpenSSL, which Python gives no names.
    **dict.fromkeys((2, 7, 18, 19, 20, 21), _OF_ANOTHER),
    # HOSTNAME_MISMATCH and IP_ADDRESS_MISMATCH
    **dict.fromkeys((62, 64), "(tls-server-name may say another name)"),
}
"""What a kubeconfig may have to do with it, by OpenSSL's code."""


class Progress:
    """How far a request got; the caller keeps it, so that it can be asked after a deadline has cut the request off."""

    def __init__(self, may_send: Callable[[], None] = lambda: None) -> None:
        """`may_send`: asked just before the first byte leaves; what it raises ends the request."""
        self.sent = False
        """True from just before the first byte leaves."""
        self.refusal: Exception | None = None
        """What `may_send` raised."""
        self._may_send = may_send

    def sending(self) -> None:
        try:
            self._may_send()
        except Exception as error:
            self.sent, self.refusal = False, error
            raise
        self.sent = True


class Request(NamedTuple):
    """What is asked; `target` is path and query. `write` is False where nothing can change, whatever the method."""

    method: str
    target: str
    body: bytes | None = None
    content_type: str = ""
    write: bool = False


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Connector(aiohttp.TCPConnector):
    """Closes what was given up as well.

    A TLS connection that is given up (a watch ended by us, a call cut off) waits up to 30 s for its peer's farewell,
    and aiohttp has forgotten it by then: its socket would outlive the session, and the loop.
    """

    def __init__(self, tls: ssl.SSLContext | bool) -> None:
        # Concurrency is bounded by the caller: a watch must not take a place in the pool from a call.
        super().__init__(ssl=tls, limit=0, socket_factory=_socket)
        self._begun: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Bound:
        bound = await super().connect(req, traces, timeout)
        if isinstance(bound.transport, asyncio.WriteTransport):
            self._begun.add(bound.transport)
        return bound

    async def close(self, *, abort_ssl: bool = False) -> None:
        await super().close(abort_ssl=abort_ssl)
        for transport in list(self._begun):
            transport.abort()
        # The sockets are closed in the next turn of the loop.
        await asyncio.sleep(0)


class Transport:
    """An aiohttp session made from a login. `retire` lets calls under way finish, `close` does not."""

    def __init__(self, login: Login, user_agent: str) -> None:
        self.identity = login.identity
        self._server = login.server
        self._server_hostname = login.server_hostname or None
        self._proxy, self._proxy_headers = proxy_before(login)
        self._users = 0
        self._retired = False
        trace = aiohttp.TraceConfig()
        # Headers are kept until the body is there, which is written by a task of its own (aiohttp 3.14, Python 3.11).
        trace.on_request_headers_sent.append(_sending)
        trace.on_request_chunk_sent.append(_sending)
        self._session = aiohttp.ClientSession(
            connector=_Connector(login.tls),
            headers={"User-Agent": user_agent, "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
        )
        # aiohttp sends a DELETE again by itself if a kept-alive connection breaks under it; the second one's answer
        # (404) would hide that the first was carried out. There is no public switch (aiohttp 3.14).
        self._session._retry_connection = False  # noqa: SLF001 - as above

    async def exchange(self, request: Request, authorization: str, progress: Progress) -> Answer:
        """One request and its whole answer.

        Raises:
            Unreachable: `maybe_done` if it is a write and may have reached the server.
        """
        async with self._sent(request, authorization, progress, _PATIENT) as response:
            return Answer(response.status, response.headers, await response.read())

    @contextlib.asynccontextmanager
    async def stream(
        self, target: str, authorization: str, *, opening: float, silence: float
    ) -> AsyncGenerator[tuple[Answer, AsyncIterator[bytes]], None]:
        """A GET whose answer is read in pieces; after an error status the answer has the body and there are none.

        Args:
            opening: seconds until the server must have begun to answer.
            silence: seconds without a byte after which it counts as dead.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=silence)
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(opening):
                    response = await stack.enter_async_context(
                        self._sent(Request("GET", target), authorization, Progress(), timeout)
                    )
                    body = await response.read() if response.status >= 300 else b""
            except TimeoutError as error:
                raise Unreachable(f"{self._server} did not answer within {opening:g} s", maybe_done=False) from error
            yield Answer(response.status, response.headers, body), response.content.iter_any()

    async def retire(self) -> None:
        """Close as soon as nobody uses it any more."""
        self._retired = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        await self._session.close()

    @contextlib.asynccontextmanager
    async def _sent(
        self, request: Request, authorization: str, progress: Progress, timeout: aiohttp.ClientTimeout
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        headers = {"Authorization": authorization} if authorization else {}
        if request.content_type:
            headers["Content-Type"] = request.content_type
        self._users += 1
        try:
            async with self._session.request(
                request.method,
                URL(self._server + request.target, encoded=True),
                data=request.body,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=self._proxy_headers,
                server_hostname=self._server_hostname,
                trace_request_ctx=progress,
                timeout=timeout,
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError) as error:
            if progress.refusal is not None:
                raise progress.refusal from error
            # OSError includes TimeoutError: aiohttp's for a connection or a read, and the caller's own.
            told = words_of(self._server, error)
            raise Unreachable(told, maybe_done=progress.sent and request.write, reason=_reason(error)) from error
        finally:
            self._users -= 1
            if self._retired and not self._users:
                await self.close()


def proxy_before(login: Login) -> tuple[URL | None, dict[str, str]]:
    """Return the proxy on the way to a login's server, without the password in its URL, and the headers for it."""
    return _proxy(login.proxy)


async def _sending(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestHeadersSentParams | aiohttp.TraceRequestChunkSentParams,
) -> None:
    context.trace_request_ctx.sending()


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if option := getattr(socket, name, None):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _proxy(text: str) -> tuple[URL | None, dict[str, str]]:
    """Take the password out of a proxy's URL: aiohttp quotes the URL in its errors, which end in logs (P11)."""
    if not text:
        return None, {}
    url = URL(text)
    if not url.user:
        return url, {}
    words = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
    return url.with_user(None), {"Proxy-Authorization": f"Basic {words}"}


def _reason(error: BaseException) -> str:
    return UNTRUSTED if isinstance(error, aiohttp.ClientConnectorCertificateError) else "Unreachable"


def words_of(server: str, error: BaseException) -> str:
    """Say why there was no answer, for people: the server first, then what happened on the way to it."""
    return f"{server}: {_what_happened(error)}"


def _what_happened(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} is not known"
        case aiohttp.ClientConnectorCertificateError():
            return f"TLS: {_mistrust(error.certificate_error)}"
        case aiohttp.ClientConnectorSSLError():
            return f"TLS: {error.os_error.strerror or error.os_error}"
        case aiohttp.ClientConnectorError():
            return _no_connection(error)
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answers {error.status} {error.message}".rstrip()
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {_CONNECT:g} s"
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return "the connection was closed before the answer"
        case TimeoutError():
            return "no answer in time"
        case _:
            return f"{type(error).__name__}: {error}".rstrip(": ")


def _no_connection(error: aiohttp.ClientConnectorError) -> str:
    place = f"{'proxy ' * isinstance(error, aiohttp.ClientProxyConnectionError)}{error.host}:{error.port}"
    if isinstance(error.os_error, ConnectionRefusedError):
        return f"connection refused by {place}"
    number = error.os_error.errno
    return f"no connection to {place}: {os.strerror(number) if number else error.os_error}"


def _mistrust(error: Exception) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error}"
    told = f"certificate verify failed: {error.verify_message.rstrip('.')}"
    return f"{told} {_MISTRUST[error.verify_code]}" if error.verify_code in _MISTRUST else told
