"""A swarm that is one thread: speaks the API over real sockets, remembers what it was asked, and fails on demand."""

import functools
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from dragonfly.cli.client import Client
from dragonfly.cli.main import run
from dragonfly.model.provision import TERMINAL
from tests.unit.cli.installer import here

__all__ = ["here"]

TOKEN = "df_test"


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    names: list[str] = []
    """All of `?name=`."""


class Reply(NamedTuple):
    status: int
    body: Any = None
    headers: dict[str, str] = {}


DROP = "drop"
"""The connection ends without an answer, after the request was carried out."""

REFUSE = "refuse"
"""The connection ends without an answer, before anything was done."""


class FakeSwarm:
    """Resources by kind and name, one revision counter, and a queue of faults that meet the next requests."""

    def __init__(self) -> None:
        self.revision = 100
        self.objects: dict[str, dict[str, Any]] = {"machines": {}, "templates": {}, "provisions": {}}
        self.requests: list[Request] = []
        self.faults: deque[str | Reply] = deque()
        self.script: deque[dict[str, Any]] = deque()
        """Statuses that the provisions go through, told by the feed in turns."""
        self.answers: dict[str, Reply] = {}
        """Fixed answers by `METHOD path`."""
        self.seen = threading.Condition()
        self.url = ""
        self.streams: deque[str] = deque()
        """What each request for events gets before its connection ends."""
        self.stale = ""
        """For how long the replica that answers has not heard from etcd."""

    def fail(self, status: int, slug: str = "unavailable", **headers: str) -> None:
        """Answer the next request that no fault has been planned for with a problem."""
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        self.faults.append(problem(status, slug, f"the swarm says {slug}", headers=names))

    def lose(self, *, carried_out: bool) -> None:
        """End the connection of the next request without an answer."""
        self.faults.append(DROP if carried_out else REFUSE)

    def refuse(self, method_and_path: str, status: int, slug: str, detail: str, *errors: dict[str, Any]) -> None:
        self.answers[method_and_path] = problem(status, slug, detail, *errors)

    def reply(self, method_and_path: str, status: int, body: Any, **headers: str) -> None:
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        self.answers[method_and_path] = Reply(status, body, names)

    def add(self, kind: str, document: dict[str, Any]) -> dict[str, Any]:
        self.revision += 1
        document["metadata"]["revision"] = self.revision
        self.objects[kind][document["metadata"]["name"]] = document
        return document

    def machine(self, name: str, phase: str = "Available", **status: Any) -> dict[str, Any]:
        interface = {"mac": f"02:00:00:00:00:{len(self.objects['machines']):02x}", "address": "10.0.0.1/24"}
        return self.add(
            "machines",
            {
                "kind": "Machine",
                "metadata": {"name": name, "labels": {"site": "fra"}, "tags": ["a"], "createdAt": CREATED},
                "spec": {"cluster": "local", "interfaces": [interface], "arch": "x86_64"},
                "status": {"phase": phase, "owner": "b", **status},
            },
        )

    def provision(self, name: str, machine: str, **status: Any) -> dict[str, Any]:
        return self.add(
            "provisions",
            {
                "kind": "Provision",
                "metadata": {"name": name, "createdAt": CREATED},
                "spec": {"machine": machine, "template": "ubuntu-2404", "templateRevision": 7},
                "status": {"phase": "Pending", "progress": 0, **status},
            },
        )

    def count(self, method: str, path: str) -> int:
        return sum(request.method == method and request.path == path for request in self.requests)

    def bodies(self, method: str, path: str) -> list[Any]:
        return [request.body for request in self.requests if (request.method, request.path) == (method, path)]

    def answer(self, request: Request) -> Reply:
        fixed = self.answers.get(f"{request.method} {request.path}")
        if fixed is not None:
            return fixed
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return problem(401, "unauthenticated", "this token is not known")
        return self._route(request, [unquote(part) for part in request.path.split("/")[3:]])

    def _route(self, request: Request, path: list[str]) -> Reply:
        match request.method, path:
            case "GET", ["events"]:
                follows = request.query.get("snapshot") == "true" and not self.streams
                text = self._told(request) if follows else self.streams.popleft() if self.streams else ""
                return Reply(200, text.encode(), {"Content-Type": "text/event-stream"})
            case "GET", [kind] if kind in self.objects:
                return self._list(kind, request.query)
            case "GET", [kind, name] if kind in self.objects:
                return self._read(kind, name)
            case "GET", ["machines", name, "history"]:
                found = [item for item in self.objects["provisions"].values() if item["spec"]["machine"] == name]
                return Reply(200, {"kind": "ProvisionList", "items": found})
            case "POST", ["machines", name, "provision"]:
                if name not in self.objects["machines"]:
                    return missing(name)
                ulid = f"01JD00000000000000000000{len(self.objects['provisions']):02}"
                return Reply(202, self.provision(ulid, name))
            case "POST", ["provisions", name, "cancel"]:
                item = self.objects["provisions"][name]
                item["status"]["phase"] = "Cancelled"
                return Reply(202, item)
            case "POST", [kind]:
                name = request.body["metadata"]["name"]
                if name in self.objects[kind]:
                    return problem(409, "exists", f"{name} is there already")
                return Reply(201, self.add(kind, {"status": {"phase": "Available"}, **request.body}))
            case "PUT", [kind, name]:
                return self._checked(request, kind, name) or Reply(200, self.add(kind, request.body))
            case "DELETE", [kind, name]:
                refused = self._checked(request, kind, name)
                if refused is None:
                    self.revision += 1
                    del self.objects[kind][name]
                return refused or Reply(204)
        return missing(request.path)

    def _told(self, request: Request) -> str:
        """The state, to who has none yet, and then what the script says; the connection ends after it."""
        kind = request.query["kind"]
        objects = [item for name, item in self.objects[f"{kind.lower()}s"].items() if name in request.names]
        text = [ping(self.revision)]
        if "last-event-id" not in request.headers:
            text = [ping(self.revision, snapshot="begins", position=False)]
            text += [told("created", item, self.revision, position=False) for item in objects]
            text += [ping(self.revision, snapshot="complete")]
        provisions = objects if kind == "Provision" else []
        while self.script and (running := [i for i in provisions if i["status"]["phase"] not in TERMINAL]):
            for item in running[: len(self.script)]:
                self.revision += 1
                item["status"] = self.script.popleft()
                item["metadata"]["revision"] = self.revision
                text.append(told("updated", item, self.revision))
        return "".join(text)

    def _checked(self, request: Request, kind: str, name: str) -> Reply | None:
        if name not in self.objects[kind]:
            return missing(name)
        if request.headers.get("if-match") != f'"{self.objects[kind][name]["metadata"]["revision"]}"':
            return problem(412, "changed", f"{name} is at another revision")
        return None

    def _read(self, kind: str, name: str) -> Reply:
        item = self.objects[kind].get(name)
        if item is None:
            return missing(name)
        return Reply(200, item)

    def _list(self, kind: str, query: dict[str, str]) -> Reply:
        items = list(self.objects[kind].values())
        if "phase" in query:
            items = [item for item in items if item["status"]["phase"] == query["phase"]]
        start, limit = int(query.get("cursor", 0)), int(query.get("limit", 100))
        body = {"kind": f"{kind[:-1].capitalize()}List", "revision": self.revision, "total": len(items)}
        body["items"] = items[start : start + limit]
        if start + limit < len(items):
            body["cursor"] = str(start + limit)
        return Reply(200, body)


CREATED = "2026-01-01T00:00:00Z"


def problem(
    status: int, slug: str, detail: str, *errors: dict[str, Any], headers: dict[str, str] | None = None
) -> Reply:
    body = {"type": f"/problems/{slug}", "title": slug, "status": status, "detail": detail, "requestId": "r-1"}
    return Reply(status, body | ({"errors": list(errors)} if errors else {}), headers or {})


def ping(revision: int, *, position: bool = True, **said: Any) -> str:
    tail = f"\nid: {revision}" if position else ""
    return f"event: ping\ndata: {json.dumps({'revision': revision, **said})}{tail}\nretry: 1\n\n"


def told(change: str, document: dict[str, Any], revision: int, *, position: bool = True) -> str:
    """A change as the feed tells it."""
    data = {"revision": revision, "type": change, "kind": document["kind"], "name": document["metadata"]["name"]}
    tail = f"\nid: {revision}" if position else ""
    return f"event: {change}\ndata: {json.dumps({**data, 'object': document})}{tail}\n\n"


def missing(name: str) -> Reply:
    return problem(404, "not-found", f"there is no {name}")


def _handler(swarm: FakeSwarm) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: two of them wait for an acknowledgement in between

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            raw = self.rfile.read(length)
            url = urlsplit(self.path)
            given = parse_qs(url.query)
            query = {key: values[-1] for key, values in given.items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            request = Request(
                self.command, url.path, query, headers, json.loads(raw) if raw else None, given.get("name", [])
            )
            with swarm.seen:
                reply = self._reply(request)
                swarm.requests.append(request)
                swarm.seen.notify_all()
            if reply is None:
                self.close_connection = True
            else:
                self._send(reply)

        def _reply(self, request: Request) -> Reply | None:
            fault = swarm.faults.popleft() if swarm.faults else None
            if isinstance(fault, Reply):
                return fault
            if fault == REFUSE:
                return None
            reply = swarm.answer(request)
            return None if fault == DROP else reply

        def _send(self, reply: Reply) -> None:
            body = b"" if reply.body is None else reply.body if isinstance(reply.body, bytes) else _json(reply.body)
            self.send_response(reply.status)
            headers = {"Dragonfly-Revision": str(swarm.revision), "Dragonfly-Replica": "b", **reply.headers}
            if swarm.stale:
                headers["Dragonfly-Stale"] = swarm.stale
            for key, value in headers.items():
                self.send_header(key, value)
            if reply.status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    return Handler


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Dragonfly = Callable[..., Outcome]


@pytest.fixture
def swarm() -> Iterator[FakeSwarm]:
    fake = FakeSwarm()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment in which nothing says where a swarm is; returns the home directory."""
    for name in [*os.environ]:
        if name.startswith("DRAGONFLY_") or name in {"KUBECONFIG", "KUBERNETES_SERVICE_HOST", "XDG_CACHE_HOME"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def dragonfly(alone: Path, capsys: pytest.CaptureFixture[str]) -> Dragonfly:
    """Run one command in this process; it is told nothing but its arguments."""

    def command(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return command


@pytest.fixture
def at_swarm(swarm: FakeSwarm, dragonfly: Dragonfly, monkeypatch: pytest.MonkeyPatch) -> Dragonfly:
    """`dragonfly` with the address and the token of `swarm`; pauses between looks take no time."""
    monkeypatch.setenv("DRAGONFLY_SERVER", swarm.url)
    monkeypatch.setenv("DRAGONFLY_TOKEN", TOKEN)
    monkeypatch.setattr("dragonfly.cli.session.Session.pause", lambda _self, _seconds: None)
    return dragonfly


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be served now is given up after the first try."""
    monkeypatch.setattr("dragonfly.cli.session.Client", functools.partial(Client, patience=0.0))
