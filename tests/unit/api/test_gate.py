"""What every request goes through, and what every answer carries."""

from pathlib import Path

import pytest
import structlog

from dragonfly.api.access import AdminToken, Identity, Nobody
from dragonfly.api.app import OPERATIONS
from dragonfly.api.context import CheckResult
from tests.unit.api.replicas import TOKEN, Replica, World, mac, machine_document, problem_of

ALL = sorted({(operation.method, operation.path) for operation in OPERATIONS})


@pytest.mark.parametrize(("method", "path"), [*ALL, ("GET", "/api/v1/none"), ("GET", "/none"), ("GET", "/healthz/")])
@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN])
async def test_nothing_but_the_open_routes_is_served_without_a_token(
    replica: Replica, method: str, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}

    async with replica.client(headers) as http:
        response = await http.request(method, path, json={})

    problem_of(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"].startswith('Bearer realm="dragonfly"')
    assert replica.store.revision == 1


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/openapi.json"])
async def test_the_open_routes_need_no_token(replica: Replica, path: str) -> None:
    async with replica.client() as http:
        response = await http.get(path)

    assert response.status_code == 200
    assert response.headers["dragonfly-replica"] == "a"


async def test_every_answer_tells_the_request_the_replica_and_the_revision(replica: Replica) -> None:
    for path in ("/healthz", "/api/v1/machines", "/api/v1/none"):
        response = await replica.http.get(path, headers={"X-Request-Id": "abc-123"})
        assert response.headers["x-request-id"] == "abc-123"
        assert response.headers["dragonfly-replica"] == "a"
        assert response.headers["dragonfly-revision"] == "1"
        assert response.headers["cache-control"] == "no-store"
        assert "dragonfly-stale" not in response.headers


async def test_a_replica_that_is_about_to_end_asks_its_clients_to_connect_anew(world: World) -> None:
    """Behind a plain Service nobody else takes a kept connection from it."""
    leaving: list[bool] = []
    replica = world.replica("a", leaving=lambda: bool(leaving))

    before = await replica.http.get("/api/v1/machines")
    leaving.append(True)
    after = [await replica.http.get(path) for path in ("/api/v1/machines", "/api/v1/none", "/healthz")]

    assert "connection" not in before.headers
    assert [response.headers["connection"] for response in after] == ["close"] * 3


@pytest.mark.parametrize("sent", ["", "x" * 200, "a b", "<script>", "a\tb"])
async def test_a_request_id_that_is_not_sane_is_replaced(replica: Replica, sent: str) -> None:
    response = await replica.http.get("/healthz", headers={"X-Request-Id": sent})

    assert response.headers["x-request-id"].startswith("01J")


async def test_a_read_waits_for_the_revision_that_it_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9."""
    first, second = world.replica("a"), world.replica("b")
    second.watch.hold()
    created = await first.http.post("/api/v1/machines", json=machine_document("m-1", mac(1)))
    query = {"minRevision": created.headers["dragonfly-revision"]}
    asked: list[int] = []

    async def arrive(revision: int, _timeout: float) -> None:
        asked.append(revision)
        second.watch.go_on()

    monkeypatch.setattr(second.mirror, "wait_for", arrive)
    machine = await second.get("/api/v1/machines/m-1", **query)

    assert asked == [int(query["minRevision"])]
    assert machine == created.json()


async def test_a_revision_that_does_not_arrive_is_told(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_revision: int, _timeout: float) -> None:
        raise TimeoutError

    monkeypatch.setattr(replica.mirror, "wait_for", never)

    response = await replica.http.get("/api/v1/machines", params={"minRevision": 99})

    assert "revision 1 and has not seen 99" in problem_of(response, 504, "revision-not-reached")["detail"]
    assert response.headers["retry-after"]


async def test_without_etcd_reads_are_marked_stale_and_writes_refused(replica: Replica) -> None:
    """P10."""
    await replica.machine("m-1", mac(1))
    replica.mirror.mark_stale(replica.clock.seconds)
    replica.clock.seconds += 12.5
    replica.store.fail("unsent")

    read = await replica.http.get("/api/v1/machines/m-1")
    write = await replica.http.post("/api/v1/machines", json=machine_document("m-2", mac(2)))

    assert read.status_code == 200
    assert read.headers["dragonfly-stale"] == "12.5"
    problem_of(write, 503, "store-unavailable")
    assert write.headers["retry-after"]


async def test_a_replica_that_has_read_nothing_yet_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = world.replica()
    monkeypatch.setattr(replica.mirror, "_synced", False)

    for response in (await replica.http.get("/api/v1/machines"), await replica.http.post("/api/v1/machines", json={})):
        problem_of(response, 503, "not-synced")
        assert response.headers["retry-after"]
    assert (await replica.http.get("/api/v1/version")).json() == {"version": "0.0.0", "replica": "a"}
    assert (await replica.http.get("/api/v1/whoami")).json() == {"name": "admin"}


async def test_a_bug_is_a_problem_that_tells_nothing_and_a_log_line_that_tells_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = world.replica()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("the secret of the universe")

    monkeypatch.setattr("dragonfly.api.desk.page", broken)
    with structlog.testing.capture_logs() as logs:
        response = await replica.http.get("/api/v1/machines")

    problem = problem_of(response, 500, "internal")
    assert "universe" not in response.text
    (bug,) = [line for line in logs if line["event"] == "http.bug"]
    assert bug["request"] == problem["requestId"]
    assert isinstance(bug["exc_info"], ZeroDivisionError)


async def test_readiness_tells_each_check(replica: Replica) -> None:
    assert (await replica.http.get("/readyz")).json() == {
        "ready": True,
        "replica": "a",
        "state": "following",
        "checks": {"mirror": {"ok": True, "detail": "followed"}},
    }

    def broken() -> CheckResult:
        raise ValueError("oops")

    replica.checks["claims"] = broken
    response = await replica.http.get("/readyz")

    assert response.status_code == 503
    assert response.json()["checks"]["claims"] == {
        "ok": False,
        "detail": "the check itself failed: ValueError: oops",
    }
    assert (await replica.http.get("/healthz")).status_code == 200


async def test_requests_are_counted_by_route_never_by_path(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.get("/api/v1/machines/m-1")
    await replica.http.get("/api/v1/machines/m-2")
    await replica.http.request("BREW", "/etc/passwd")
    await replica.http.get("/healthz")

    text = (await replica.http.get("/metrics")).text

    route = 'route="/api/v1/machines/{name}"'
    assert f'dragonfly_http_requests_total{{code="200",method="GET",{route}}} 1.0' in text
    assert f'dragonfly_http_requests_total{{code="404",method="GET",{route}}} 1.0' in text
    assert 'dragonfly_http_requests_total{code="404",method="other",route="none"} 1.0' in text
    assert 'dragonfly_http_request_duration_seconds_count{route="/healthz"} 1.0' in text
    assert "dragonfly_http_requests_in_flight 1.0" in text, "the one that asks"
    assert f"dragonfly_store_revision {float(replica.store.revision)}" in text
    assert "m-1" not in text
    assert "passwd" not in text


async def test_requests_are_logged_without_their_secrets(replica: Replica) -> None:
    with structlog.testing.capture_logs() as logs:
        await replica.http.get("/api/v1/machines?q=hidden", headers={"X-Request-Id": "r-1"})

    (line,) = [line for line in logs if line["event"] == "http.request"]
    assert (line["request"], line["method"], line["route"], line["status"], line["by"]) == (
        "r-1",
        "GET",
        "/api/v1/machines",
        200,
        "admin",
    )
    assert TOKEN not in str(logs)
    assert "hidden" not in str(logs)


def test_the_admin_token_is_read_anew_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    access = AdminToken(file)
    assert access.authenticate("first-token-0123456789") is None

    file.write_text("first-token-0123456789\n")
    assert access.authenticate("first-token-0123456789") == Identity("admin")
    assert access.authenticate("first-token-012345678") is None
    assert access.authenticate("") is None

    new = tmp_path / "new"
    new.write_text("second-token-0123456789\n")
    new.replace(file)
    assert access.authenticate("first-token-0123456789") is None
    assert access.authenticate("second-token-0123456789") == Identity("admin")

    file.unlink()
    assert access.authenticate("second-token-0123456789") is None


@pytest.mark.parametrize("text", ["", "\n", "short"])
def test_a_token_that_can_be_guessed_lets_nobody_in(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)

    assert AdminToken(file).authenticate(text.strip()) is None
    assert Nobody().authenticate(text) is None
