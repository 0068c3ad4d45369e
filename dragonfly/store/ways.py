"""How an endpoint of etcd is reached: straight to its URL, or by a way that somebody else knows.

What a way says may change while the process runs (credentials rotate), so it is asked anew for each connection and each
request.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from urllib3.connection import HTTPConnection, HTTPSConnection, ProxyConfig
from urllib3.util import Url, parse_url

from dragonfly.store.tls import Tls

# A peer that vanished is noticed by the kernel after 3 + 3 x 2 s without an answer, or 8 s of unacknowledged data.
_SOCKET_OPTIONS: list[tuple[int, int, int | bytes]] = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, int(getattr(socket, name)), value)
        for name, value in (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 8000))
        if hasattr(socket, name)  # Linux has all four, others some
    ),
]


class Proxy(NamedTuple):
    """An HTTP proxy that lets connections through (CONNECT)."""

    url: str
    """Without user and password."""
    headers: Mapping[str, str]


class Leg(NamedTuple):
    """Where to connect to, and what to say there; `leg_to` makes one."""

    host: str
    port: int
    secure: bool
    netloc: str
    path: str
    """Put before that of each call."""
    tls: Callable[[], ssl.SSLContext] | None = None
    """Of new connections; needed where it is `secure`."""
    server_hostname: str = ""
    """The name in the server's certificate, if it is not the host's."""
    proxy: Proxy | None = None
    head: str = ""
    """Lines for each request's head."""
    identity: int = 0
    """Connections made under another one are of no use any more."""

    def link(self, timeout: float) -> HTTPConnection:
        """Return a connection, not yet made; `timeout`: seconds for TCP and TLS each."""
        proxy = parse_url(self.proxy.url) if self.proxy is not None else None
        host, port = (self.host, self.port) if proxy is None else (_host(proxy), _port(proxy))
        link = self._tls_link(host, port, timeout, proxy) if self.secure else _plain_link(host, port, timeout, proxy)
        if proxy is not None and self.proxy is not None:
            link.set_tunnel(self.host, self.port, dict(self.proxy.headers), proxy.scheme or "http")
        return link

    def _tls_link(self, host: str, port: int, timeout: float, proxy: Url | None) -> HTTPConnection:
        tls = self.tls() if self.tls is not None else None
        return HTTPSConnection(
            host,
            port,
            timeout=timeout,
            socket_options=_SOCKET_OPTIONS,
            ssl_context=tls,
            server_hostname=self.server_hostname or None,
            proxy=proxy,
            # As in kubectl, the authorities of a server are those of the proxy before it, too.
            proxy_config=ProxyConfig(tls, False, None, None) if proxy is not None else None,
        )


def leg_to(url: str, *, tls: Callable[[], ssl.SSLContext] | None = None) -> Leg:
    """Return the leg straight to a URL."""
    parsed = parse_url(url)
    port = _port(parsed)
    path = (parsed.path or "").rstrip("/")
    return Leg(_host(parsed), port, parsed.scheme == "https", f"{parsed.host}:{port}", path, tls)


class Way(Protocol):
    """How one endpoint is reached. Used by several threads at once."""

    def leg(self) -> Leg:
        """Return it as it is now."""
        ...

    def renew(self, seconds: float) -> None:
        """Have other credentials after these were refused; `seconds`: how long may be waited for them.

        Raises:
            Fault: there are none to be had, or not yet; nothing was sent.
        """
        ...


class Straight:
    """The way to an endpoint whose URL says everything."""

    def __init__(self, url: str, tls: Tls | None) -> None:
        self._leg = leg_to(url, tls=tls.context if tls is not None else None)

    def leg(self) -> Leg:
        return self._leg

    def renew(self, seconds: float) -> None:
        """Do nothing: what is refused here are tokens of etcd's, which the gateway itself renews."""


def _plain_link(host: str, port: int, timeout: float, proxy: Url | None) -> HTTPConnection:
    return HTTPConnection(host, port, timeout=timeout, socket_options=_SOCKET_OPTIONS, proxy=proxy)


def _host(url: Url) -> str:
    return (url.host or "").strip("[]")


def _port(url: Url) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
