"""What a server tells a host that is to join it, over TLS as k3s serves it: without a token, to anybody."""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dragonfly.install.etcd_mode import notice
from dragonfly.install.options import EtcdMode, Options
from dragonfly.install.server_asked import asked
from dragonfly.sandbox.pki import Authority

NOTICE = "/static/dragonfly/swarm.json"


@contextmanager
def server(presents: Authority, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve files with a certificate of an authority; yield where."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pair = presents.server("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    serving.socket = context.wrap_socket(serving.socket, server_side=True)
    threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"127.0.0.1:{serving.server_port}"
    finally:
        serving.shutdown()
        serving.server_close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours", "k3s-server-ca", dt.datetime.now(dt.UTC))


@pytest.fixture
def token_file(tmp_path: Path, authority: Authority) -> str:
    file = tmp_path / "token"
    file.write_text(f"K10{hashlib.sha256(authority.ca.read_bytes()).hexdigest()}::server:secret\n")
    return str(file)


@pytest.mark.parametrize("mode", ["shared", "dedicated", "external"])
def test_whose_etcd_the_swarm_uses_is_told_before_a_host_is_a_node(
    mode: EtcdMode, authority: Authority, token_file: str
) -> None:
    with server(authority, {"/cacerts": authority.ca.read_bytes(), NOTICE: notice(mode).encode()}) as join:
        told = asked(Options(join=join, token_file=token_file, etcd=""))

    assert (told.problem, told.etcd) == ("", mode)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"etcd":"another"}', b"<html>"])
def test_what_is_no_notice_says_nothing(content: bytes | None, authority: Authority, token_file: str) -> None:
    """As of a server that an older Dragonfly installed, or a newer one."""
    files = {"/cacerts": authority.ca.read_bytes(), **({} if content is None else {NOTICE: content})}

    with server(authority, files) as join:
        told = asked(Options(join=join, token_file=token_file, etcd=""))

    assert (told.problem, told.etcd) == ("", "")


def test_who_only_shows_the_clusters_authority_is_not_believed(
    tmp_path: Path, authority: Authority, token_file: str
) -> None:
    """Anybody can have the authority's certificate, and the hash in the token fits it."""
    anothers = Authority(tmp_path / "anothers", "k3s-server-ca", dt.datetime.now(dt.UTC))

    with server(anothers, {"/cacerts": authority.ca.read_bytes(), NOTICE: notice("external").encode()}) as join:
        told = asked(Options(join=join, token_file=token_file, etcd=""))

    assert (told.problem, told.etcd) == ("", "")


def test_another_clusters_server_is_asked_no_more(tmp_path: Path, authority: Authority, token_file: str) -> None:
    anothers = Authority(tmp_path / "anothers", "k3s-server-ca", dt.datetime.now(dt.UTC))

    with server(anothers, {"/cacerts": anothers.ca.read_bytes(), NOTICE: notice("external").encode()}) as join:
        told = asked(Options(join=join, token_file=token_file, etcd=""))

    assert (told.problem, told.etcd) == ("the token is another cluster's", "")
