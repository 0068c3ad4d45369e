"""What servers of the stand-in tell each other, as k3s's do on its own port: the authorities, and a place in etcd.

k3s muxes this into port 6443; here the API server has that one for itself.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dragonfly.sandbox.pki import KeyPair
from tests.e2e.waiting import eventually

_PORT: Final = 9345
_LAST: Final = 60
"""Seconds that etcd has to take a member."""
_SHARED: Final = (
    *(f"{name}.{kind}" for name in ("etcd/server-ca", "etcd/peer-ca", "server-ca") for kind in ("crt", "key")),
    "service-account.key",
)


def gateway(path: str, body: Any, tls: ssl.SSLContext) -> Any:
    """Ask this host's member of etcd by its JSON gateway."""
    connection = http.client.HTTPSConnection("127.0.0.1", 2382, context=tls, timeout=10)
    try:
        connection.request("POST", f"/v3/{path}", json.dumps(body))
        answer = connection.getresponse()
        found = json.loads(answer.read())
        if answer.status != http.client.OK:
            sys.stderr.write(f"etcd: {path}: {found}\n")
        return found
    finally:
        connection.close()


class Supervisor:
    """Answers on a thread of its own until it is closed."""

    def __init__(self, token: str, pair: KeyPair, shared: Path, etcd: ssl.SSLContext) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if self.headers["Authorization"] != f"Bearer {token}":
                    self.send_error(401)
                    return
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = _bundle(shared) if self.path == "/bootstrap" else _place(body, etcd)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("", _PORT), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def bootstrap(server: str, token: str) -> dict[str, str]:
    """The authorities of the cluster, by their files' names, as base64."""
    found: dict[str, str] = _ask(server, token, "/bootstrap", {})
    return found


def joined(server: str, token: str, name: str, peer: str) -> str:
    """Get a place in etcd; return its members as etcd wants to be told of them."""
    return str(_ask(server, token, "/join", {"name": name, "peer": peer}))


def _bundle(shared: Path) -> dict[str, str]:
    return {name: base64.b64encode((shared / name).read_bytes()).decode() for name in _SHARED}


def _place(body: dict[str, str], etcd: ssl.SSLContext) -> str:
    # Refused while etcd finds that a member has not been there for long: asked again, as k3s does.
    members = eventually("etcd takes a member", lambda: _members_with(body["peer"], etcd), within=_LAST, every=1)
    return ",".join(f"{member.get('name') or body['name']}={url}" for member in members for url in member["peerURLs"])


def _members_with(peer: str, etcd: ssl.SSLContext) -> list[Any]:
    """The members, with that one among them; none if etcd refuses it for now."""
    members: list[Any] = gateway("cluster/member/list", {}, etcd).get("members", [])
    if not members or peer in {url for member in members for url in member["peerURLs"]}:
        return members
    added: list[Any] = gateway("cluster/member/add", {"peerURLs": [peer]}, etcd).get("members", [])
    return added


def _ask(server: str, token: str, path: str, body: Any) -> Any:
    # The token, not the certificate, says that this is the cluster: it is not told which authority is.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(urlsplit(server).hostname or "", _PORT, context=context, timeout=2 * _LAST)
    try:
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        return json.loads(answer.read())
    finally:
        connection.close()
