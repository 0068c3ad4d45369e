"""A connection against a server on loopback that does exactly what a test says: answers, silence, cut connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.kube.channel import Limits, Surroundings
from dragonfly.kube.connection import Connection, lines
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.errors import Conflict, Forbidden, Gone, KubeError, ServerFailed, Throttled, Unreachable
from dragonfly.kube.port import MAY_SEND, WatchEvent
from dragonfly.kube.resources import HARDWARE, POD, SECRET, WORKFLOW, Object, Ref

REF = Ref(WORKFLOW, "ns", "w")
OBJECT: Object = {
    "apiVersion": "tinkerbell.org/v1alpha1",
    "kind": "Workflow",
    "metadata": {"name": "w", "namespace": "ns", "resourceVersion": "5"},
}


class Seen(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Step = Callable[[asyncio.StreamWriter], Awaitable[None]]


class ScriptedServer:
    """Carries out one step for each request, in order; then hangs up on each."""

    def __init__(self, *steps: Step) -> None:
        self.seen: list[Seen] = []
        self._steps = list(steps)
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    def next_is(self, *steps: Step) -> None:
        self._steps += steps

    def kubeconfig(self, directory: Path, token: str = "t") -> Kubeconfig:
        return kubeconfig(directory, self.port, token)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                self.seen.append(await _request(reader))
                step = self._steps.pop(0) if self._steps else hang_up
                await step(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def kubeconfig(directory: Path, port: int, token: str) -> Kubeconfig:
    (directory / "token").write_text(token)
    path = directory / "kubeconfig"
    document = {
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "x", "user": {"tokenFile": "token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(document))
    return Kubeconfig((path,))


def reply(status: int, body: object, *headers: str) -> Step:
    async def step(writer: asyncio.StreamWriter) -> None:
        content = msgspec.json.encode(body)
        head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", *headers, "", ""]
        writer.write("\r\n".join(head).encode() + content)
        await writer.drain()

    return step


def chunks(*pieces: bytes, then: Step | None = None) -> Step:
    """A chunked answer; the stream ends properly unless `then` does something else."""

    async def step(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        if then:
            await then(writer)
        else:
            writer.write(b"0\r\n\r\n")

    return step


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def silence(writer: asyncio.StreamWriter) -> None:
    await writer.wait_closed()


def silence_for(seconds: float) -> Step:
    """So much time passes, at once, for all that waits on this loop: not a moment of it before the request is there."""

    async def step(writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time
        loop.time = lambda: before() + seconds  # type: ignore[method-assign]  # the loop of one test, which ends with it
        await silence(writer)

    return step


async def _request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    return Seen(method, target, headers, body)


class NoLonger(Exception):
    """What a caller says who may not send any more."""


@contextmanager
def sending_only_if(may: Callable[[], bool]) -> Iterator[None]:
    def may_send() -> None:
        if not may():
            raise NoLonger

    token = MAY_SEND.set(may_send)
    try:
        yield
    finally:
        MAY_SEND.reset(token)


class Naps:
    """A sleep that takes no time and remembers how long it would have been."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.now = 100.0

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def surroundings(self) -> Surroundings:
        return Surroundings(clock=lambda: self.now, sleep=self.sleep, random=lambda: 0.5)


def connection(server: ScriptedServer, directory: Path, naps: Naps | None = None, **limits: Any) -> Connection:
    around = naps.surroundings() if naps else Surroundings()
    return Connection(server.kubeconfig(directory), Limits(**limits), around)


def failure(code: int, reason: str = "", **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": f"{code} {reason}", "details": details}


async def write(kube: Connection, how: str) -> Any:
    match how:
        case "create":
            return await kube.create(OBJECT)
        case "apply":
            return await kube.apply(OBJECT)
        case "patch":
            return await kube.patch(REF, {"spec": {}})
        case _:
            return await kube.delete(REF, uid="u", resource_version="5")


WRITES = pytest.mark.parametrize("how", ["create", "apply", "patch", "delete"])


@WRITES
async def test_a_write_whose_answer_is_lost_is_sent_once_and_may_have_happened(tmp_path: Path, how: str) -> None:
    async with (
        ScriptedServer(reply(200, OBJECT), hang_up, reply(200, OBJECT)) as server,
        connection(server, tmp_path) as kube,
    ):
        await kube.get(REF)  # so that the write goes over a kept-alive connection, where aiohttp would repeat a DELETE

        with pytest.raises(Unreachable) as caught:
            await write(kube, how)

    assert caught.value.maybe_done
    assert len(server.seen) == 2


@WRITES
async def test_a_write_that_never_left_did_not_happen_and_is_tried_again(tmp_path: Path, how: str) -> None:
    async with ScriptedServer() as server:
        pass
    naps = Naps()
    async with connection(server, tmp_path, naps) as kube:
        with pytest.raises(Unreachable) as caught:
            await write(kube, how)

    assert not caught.value.maybe_done
    assert naps.taken == pytest.approx([0.05, 0.1, 0.2])


@WRITES
async def test_a_write_out_of_time_may_have_happened_if_it_was_sent(tmp_path: Path, how: str) -> None:
    async with (
        ScriptedServer(silence_for(60)) as server,
        connection(server, tmp_path, deadline=60) as kube,
    ):
        with pytest.raises(Unreachable) as caught:
            await write(kube, how)

    assert caught.value.maybe_done
    assert caught.value.reason == "Deadline"


async def test_a_write_that_ran_out_of_time_in_the_queue_did_not_happen(tmp_path: Path) -> None:
    async with (
        ScriptedServer() as server,
        connection(server, tmp_path, deadline=0.1, in_flight=1) as kube,
        kube._channel._places,
    ):
        with pytest.raises(Unreachable) as caught:
            await kube.create(OBJECT)

    assert not caught.value.maybe_done
    assert server.seen == []


@pytest.mark.parametrize("code", [500, 502, 503, 504])
async def test_a_failed_server_is_asked_again_for_reads_only(tmp_path: Path, code: int) -> None:
    steps = [reply(code, failure(code)), reply(200, OBJECT), reply(code, failure(code)), reply(201, OBJECT)]
    async with ScriptedServer(*steps) as server, connection(server, tmp_path, Naps()) as kube:
        assert await kube.get(REF) == OBJECT
        with pytest.raises(ServerFailed) as caught:
            await kube.create(OBJECT)

    assert caught.value.maybe_done
    assert [request.method for request in server.seen] == ["GET", "GET", "POST"]


async def test_a_read_is_given_up_after_some_attempts(tmp_path: Path) -> None:
    async with ScriptedServer() as server, connection(server, tmp_path, Naps(), attempts=3) as kube:
        with pytest.raises(Unreachable) as caught:
            await kube.get(REF)

    assert not caught.value.maybe_done
    assert len(server.seen) == 3


async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(tmp_path: Path) -> None:
    naps = Naps()
    busy = reply(429, failure(429), "Retry-After: 2")
    async with ScriptedServer(busy, reply(201, OBJECT)) as server, connection(server, tmp_path, naps) as kube:
        await kube.create(OBJECT)

    assert sum(naps.taken) == pytest.approx(2 * (1 + 0.5 / 4))
    assert len(server.seen) == 2


async def test_a_pod_is_evicted_only_where_its_budget_lets_it_go(tmp_path: Path) -> None:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Success"}
    kept = reply(429, failure(429), "Retry-After: 30")
    async with ScriptedServer(reply(201, status), kept) as server, connection(server, tmp_path, Naps()) as kube:
        await kube.evict(Ref(POD, "ns", "p"))
        with pytest.raises(Throttled):
            await kube.evict(Ref(POD, "ns", "p"))

    evictions = [(seen.method, seen.target, msgspec.json.decode(seen.body)) for seen in server.seen]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": "ns"}}
    assert evictions == [("POST", "/api/v1/namespaces/ns/pods/p/eviction", body)] * 2


async def test_a_write_is_not_sent_again_if_its_caller_may_no_longer_send_it(tmp_path: Path) -> None:
    """P10: a replica that was stopped between two tries, and whose claim ended meanwhile."""
    naps = Naps()
    busy = reply(429, failure(429), "Retry-After: 2")
    async with ScriptedServer(busy, reply(200, OBJECT)) as server, connection(server, tmp_path, naps) as kube:
        with sending_only_if(lambda: not naps.taken):
            with pytest.raises(NoLonger):
                await kube.create(OBJECT)
            await kube.get(REF)

    assert [seen.method for seen in server.seen] == ["POST", "GET"], "reads are anybody's"


async def test_a_write_is_asked_about_until_its_bytes_leave(tmp_path: Path) -> None:
    answers = iter([True, False])
    async with ScriptedServer() as server, connection(server, tmp_path, Naps()) as kube:
        with sending_only_if(lambda: next(answers)), pytest.raises(NoLonger):
            await kube.create(OBJECT)

    assert server.seen == []


async def test_a_server_that_is_busy_for_long_is_the_callers_decision(tmp_path: Path) -> None:
    busy = reply(429, failure(429), "Retry-After: 30")
    async with ScriptedServer(busy) as server, connection(server, tmp_path, Naps()) as kube:
        with pytest.raises(Throttled) as caught:
            await kube.create(OBJECT)
        with pytest.raises(Throttled) as refused:
            await kube.get(REF)

    assert caught.value.retry_after == 30
    assert refused.value.reason == "OwnLimit", "the second was not even sent"
    assert len(server.seen) == 1


async def test_a_server_that_asks_for_an_hour_is_asked_again_after_less_than_a_minute(tmp_path: Path) -> None:
    naps = Naps()
    busy = reply(429, failure(429), "Retry-After: 3600")
    async with ScriptedServer(busy, reply(200, OBJECT)) as server, connection(server, tmp_path, naps) as kube:
        with pytest.raises(Throttled):
            await kube.get(REF)
        naps.now += 40

        assert await kube.get(REF) == OBJECT


async def test_no_more_calls_are_under_way_at_once_than_are_allowed(tmp_path: Path) -> None:
    answered = asyncio.Event()
    under_way, most = 0, 0

    async def late(writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 2:
            # Whoever else may come has come, once the loop has gone round.
            asyncio.get_running_loop().call_later(0.1, answered.set)
        await answered.wait()
        under_way -= 1
        await reply(200, OBJECT)(writer)

    async with ScriptedServer(*[late] * 6) as server, connection(server, tmp_path, in_flight=2, deadline=60) as kube:
        await asyncio.gather(*(kube.get(REF) for _ in range(6)))

    assert (most, len(server.seen)) == (2, 6)


async def test_a_refused_token_is_read_again_once(tmp_path: Path) -> None:
    naps = Naps()
    steps = [reply(200, OBJECT), reply(401, failure(401)), reply(200, OBJECT)]
    async with ScriptedServer(*steps) as server, connection(server, tmp_path, naps) as kube:
        await kube.get(REF)
        (tmp_path / "token").write_text("rotated")
        naps.now += 10

        await kube.get(REF)

    assert [request.headers["Authorization"] for request in server.seen] == ["Bearer t", "Bearer t", "Bearer rotated"]


async def test_a_token_that_stays_refused_is_forbidden(tmp_path: Path) -> None:
    refusal = reply(401, failure(401, "Unauthorized"))
    async with ScriptedServer(refusal, refusal) as server, connection(server, tmp_path) as kube:
        with pytest.raises(Forbidden) as caught:
            await kube.get(REF)

    assert caught.value.status == 401


async def test_a_rotated_token_is_used_within_a_minute(tmp_path: Path) -> None:
    naps = Naps()
    async with ScriptedServer(*[reply(200, OBJECT)] * 3) as server, connection(server, tmp_path, naps) as kube:
        await kube.get(REF)
        (tmp_path / "token").write_text("rotated")
        await kube.get(REF)
        naps.now += 60
        await kube.get(REF)

    assert [request.headers["Authorization"] for request in server.seen] == ["Bearer t", "Bearer t", "Bearer rotated"]


async def test_calls_of_a_server_that_is_away_are_not_repeated_for_ever(tmp_path: Path) -> None:
    naps = Naps()
    async with ScriptedServer() as server, connection(server, tmp_path, naps, attempts=3) as kube:
        for seconds, expected in ((0, 3), (6, 1), (60, 1)):
            naps.now += seconds
            before = len(server.seen)
            with pytest.raises(Unreachable):
                await kube.get(REF)
            assert len(server.seen) - before == expected
        server.next_is(reply(200, OBJECT))
        await kube.get(REF)
        before = len(server.seen)
        with pytest.raises(Unreachable):
            await kube.get(REF)

        assert len(server.seen) - before == 3, "it was there meanwhile"


async def test_a_kubeconfig_that_leads_elsewhere_ends_the_connection(tmp_path: Path) -> None:
    """Else what was read of the one cluster would be written to the other."""
    naps = Naps()
    async with (
        ScriptedServer(*[reply(200, OBJECT)] * 3) as server,
        ScriptedServer(*[reply(200, OBJECT)] * 3) as other,
        connection(server, tmp_path, naps) as kube,
    ):
        await kube.get(REF)
        left = asyncio.create_task(kube.left())
        other.kubeconfig(tmp_path)
        naps.now += 60
        with pytest.raises(Unreachable, match="another API server"):
            await kube.create(OBJECT)
        await asyncio.wait_for(left, 60)
        server.kubeconfig(tmp_path)
        naps.now += 60
        with pytest.raises(Unreachable, match="another API server"):
            await kube.create(OBJECT)

        assert len(server.seen) == 1
        assert other.seen == []


async def test_credentials_caught_half_written_do_not_interrupt_the_work(tmp_path: Path) -> None:
    naps = Naps()
    async with ScriptedServer(*[reply(200, OBJECT)] * 2) as server, connection(server, tmp_path, naps) as kube:
        await kube.get(REF)
        (tmp_path / "kubeconfig").write_text("{")
        naps.now += 60
        await kube.get(REF)

    assert server.seen[1].headers["Authorization"] == "Bearer t"


async def test_writes_carry_their_preconditions_and_say_who_writes(tmp_path: Path) -> None:
    async with ScriptedServer(*[reply(200, OBJECT)] * 4) as server, connection(server, tmp_path) as kube:
        await kube.apply(OBJECT, force=True, dry_run=True)
        await kube.patch(REF, {"metadata": {"uid": "u"}}, subresource="status")
        await kube.delete(REF, uid="u")
        await kube.create(OBJECT)
    apply, patch, delete, create = server.seen

    base = "/apis/tinkerbell.org/v1alpha1/namespaces/ns/workflows"
    assert apply.target == f"{base}/w?fieldManager=dragonfly&fieldValidation=Strict&force=true&dryRun=All"
    assert apply.headers["Content-Type"] == "application/apply-patch+yaml"
    assert patch.target == f"{base}/w/status?fieldManager=dragonfly&fieldValidation=Strict"
    assert patch.headers["Content-Type"] == "application/merge-patch+json"
    assert msgspec.json.decode(patch.body) == {"metadata": {"uid": "u"}}
    assert (delete.method, delete.target) == ("DELETE", f"{base}/w")
    assert msgspec.json.decode(delete.body)["preconditions"] == {"uid": "u"}
    assert (create.method, create.target) == ("POST", f"{base}?fieldManager=dragonfly&fieldValidation=Strict")
    assert all(request.headers["User-Agent"].startswith("dragonfly/") for request in server.seen)


def page(*names: str, more: str = "") -> dict[str, Any]:
    items = [{"metadata": {"name": name}} for name in names]
    metadata = {"resourceVersion": "9", "continue": more}
    return {"kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": items}


async def test_a_list_is_read_in_pages_and_its_items_have_their_type(tmp_path: Path) -> None:
    steps = [reply(200, page("a", "b", more="to/ken=")), reply(200, page("c"))]
    async with ScriptedServer(*steps) as server, connection(server, tmp_path, page=2) as kube:
        listing = await kube.list(SECRET, "ns", label_selector="a=b,c")

    assert [item["metadata"]["name"] for item in listing.items] == ["a", "b", "c"]
    assert listing.items[0]["kind"] == "Secret"
    assert listing.resource_version == "9"
    assert server.seen[0].target == "/api/v1/namespaces/ns/secrets?labelSelector=a%3Db%2Cc&limit=2"
    assert server.seen[1].target.endswith("&continue=to%2Fken%3D")


async def test_a_list_whose_token_expired_begins_again(tmp_path: Path) -> None:
    steps = [reply(200, page("a", more="t")), reply(410, failure(410, "Expired")), reply(200, page("a", "b"))]
    async with ScriptedServer(*steps) as server, connection(server, tmp_path, Naps()) as kube:
        listing = await kube.list(SECRET, "ns")

    assert [item["metadata"]["name"] for item in listing.items] == ["a", "b"]


def frame(kind: str, name: str, version: int) -> bytes:
    return msgspec.json.encode({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}}})


async def follow(kube: Connection, **options: Any) -> list[WatchEvent]:
    events: list[WatchEvent] = []
    async with aclosing(kube.watch(HARDWARE, "ns", "7", **options)) as stream:
        async for event in stream:
            events.append(event)  # noqa: PERF401 - what came before an error counts
    return events


async def test_a_watch_is_cut_at_lines_wherever_the_pieces_are_cut(tmp_path: Path) -> None:
    whole = frame("ADDED", "zürich-\N{SNOWMAN}", 8) + b"\n" + frame("DELETED", "b", 9) + b"\n"
    pieces = [whole[index : index + 7] for index in range(0, len(whole), 7)]
    async with ScriptedServer(chunks(*pieces)) as server, connection(server, tmp_path) as kube:
        opened, added, deleted = await follow(kube, timeout=5)

    assert opened == WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "7"}})
    assert added.object["metadata"]["name"] == "zürich-\N{SNOWMAN}"
    assert deleted.type == "DELETED"
    assert "watch=true" in server.seen[0].target
    assert "allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=5" in server.seen[0].target


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (reply(410, failure(410, "Expired")), Gone),
        (chunks(b'{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}\n'), Gone),
        (chunks(frame("ADDED", "a", 8) + b"\n", then=hang_up), Unreachable),
        (chunks(then=silence), Unreachable),
        (silence, Unreachable),
        (hang_up, Unreachable),
        (reply(403, failure(403)), Forbidden),
    ],
)
async def test_a_watch_that_ends_badly_says_how(tmp_path: Path, step: Step, expected: type[KubeError]) -> None:
    async with ScriptedServer(step) as server, connection(server, tmp_path, deadline=2.0) as kube:
        with pytest.raises(expected):
            await follow(kube, silence=1.0)


PAGE = b"<html>Sign in to go on \xff</html>"


def html(kind: str) -> Step:
    async def step(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(PAGE)}\r\n\r\n"
        writer.write(head.encode() + PAGE)

    return step


CALLS: list[tuple[Callable[[Connection], Awaitable[object]], bool]] = [
    (lambda kube: kube.get(REF), False),
    (lambda kube: kube.list(WORKFLOW, "ns"), False),
    (lambda kube: kube.version(), False),
    (lambda kube: kube.can("get", WORKFLOW, "ns"), False),
    (lambda kube: kube.create(OBJECT), True),
    (lambda kube: kube.delete(REF), True),
]


@pytest.mark.parametrize("step", [html("text/html"), html("application/json"), reply(200, []), reply(200, "hello")])
@pytest.mark.parametrize(("call", "write"), CALLS)
async def test_what_is_no_answer_of_an_api_server_counts_as_none(
    tmp_path: Path, step: Step, call: Callable[[Connection], Awaitable[object]], write: bool
) -> None:
    """A proxy's page: the call can be tried again, and a write may have been carried out."""
    async with ScriptedServer(step) as server, connection(server, tmp_path) as kube:
        with pytest.raises(Unreachable, match="not an API server's answer") as caught:
            await call(kube)

    assert caught.value.maybe_done == write


async def test_a_page_is_no_error_of_an_api_server_either(tmp_path: Path) -> None:
    async def step(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 403 X\r\nContent-Length: {len(PAGE)}\r\n\r\n".encode() + PAGE)

    async with ScriptedServer(step) as server, connection(server, tmp_path) as kube:
        with pytest.raises(Forbidden, match="Sign in to go on"):
            await kube.get(REF)


@pytest.mark.parametrize("line", [PAGE, b"{}", b'{"type":"ODD","object":{}}', b'{"type":"ADDED","object":1}'])
async def test_a_line_of_a_watch_that_is_no_event_ends_it(tmp_path: Path, line: bytes) -> None:
    async with ScriptedServer(chunks(line + b"\n")) as server, connection(server, tmp_path) as kube:
        with pytest.raises(Unreachable, match="not an API server's answer"):
            await follow(kube, silence=5)


async def test_a_page_instead_of_a_watch_is_no_sign_of_life(tmp_path: Path) -> None:
    async with ScriptedServer(html("text/html")) as server, connection(server, tmp_path) as kube:
        stream = kube.watch(HARDWARE, "ns", "7")
        with pytest.raises(Unreachable, match="text/html"):
            await anext(stream)


async def test_watches_take_no_place_from_calls(tmp_path: Path) -> None:
    steps = [chunks(then=silence), reply(200, OBJECT)]
    async with (
        ScriptedServer(*steps) as server,
        connection(server, tmp_path, in_flight=1) as kube,
        aclosing(kube.watch(HARDWARE, "ns", "7")) as stream,
    ):
        assert (await anext(stream)).type == "BOOKMARK"
        assert await kube.get(REF) == OBJECT


async def test_a_conflict_comes_as_such_and_is_not_repeated(tmp_path: Path) -> None:
    async with ScriptedServer(reply(409, failure(409, "Conflict"))) as server, connection(server, tmp_path) as kube:
        with pytest.raises(Conflict):
            await kube.patch(REF, {})

    assert len(server.seen) == 1


@given(st.binary(max_size=200), st.lists(st.integers(1, 20), max_size=50))
async def test_lines_do_not_depend_on_how_they_arrive(content: bytes, cuts: list[int]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        rest = content
        for cut in cuts:
            yield rest[:cut]
            rest = rest[cut:]
        yield rest

    assert [line async for line in lines(pieces())] == [line for line in content.split(b"\n")[:-1] if line]


async def test_an_answer_that_is_cut_off_is_not_shown(tmp_path: Path) -> None:
    """P11: it might be a Secret."""
    line = b'{"type":"ADDED","object":{"data":{"password":"aHVudGVyMg=="}'
    async with ScriptedServer(chunks(line + b"\n")) as server, connection(server, tmp_path) as kube:
        with pytest.raises(Unreachable) as caught:
            await follow(kube, silence=5)

    assert "aHVudGVyMg" not in caught.value.message
