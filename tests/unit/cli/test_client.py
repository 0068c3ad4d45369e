import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dragonfly.cli.client import Client
from dragonfly.cli.errors import ApiError, CliError, Exit
from dragonfly.client.calls import read
from tests.unit.cli.conftest import problem


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def client(swarm: Any, notices: list[str]) -> Iterator[Client]:
    client = Client(swarm.url, "df_test", patience=3, notice=notices.append, pause=lambda _: None)
    yield client
    client.close()


def test_a_request_carries_the_token_and_the_program(swarm: Any, client: Client) -> None:
    swarm.machine("m-1")

    answer = client.get("machines", "m-1")

    assert (answer.status, answer.replica, answer.revision) == (200, "b", swarm.revision)
    (request,) = swarm.requests
    assert request.headers["authorization"] == "Bearer df_test"
    assert request.headers["user-agent"].startswith("dragonfly/")
    assert request.query == {}


def test_names_cannot_leave_their_place_in_the_path(swarm: Any, client: Client) -> None:
    for name in ("../swarm?x=1", "..", ""):
        with pytest.raises(CliError) as refused:
            client.get("machines", name)
        assert refused.value.exit_code == Exit.NOT_FOUND

    assert swarm.requests == []


@pytest.mark.parametrize(
    ("slug", "detail", "said"),
    [
        (
            "machine-locked",
            "Machine m-1 is locked by ada: why?no idea. Unlock it first (POST /api/v1/machines/m-1/unlock).",
            "Machine m-1 is locked by ada: why?no idea. Unlock it first (dragonfly unlock m-1).",
        ),
        ("provision-active", "Cancel it (POST /api/v1/provisions/01JD/cancel).", "Cancel it (dragonfly cancel 01JD)."),
        ("already-exists", "Change it with PUT or PATCH, or", "Change it with dragonfly apply, or"),
        ("no-bmc", "Do that (PATCH /api/v1/machines/m-1) first.", "Do that first."),
        ("outcome-unknown", "Repeat with an Idempotency-Key.", "nobody answered, and the change may have happened"),
    ],
)
def test_problems_are_told_in_commands_not_in_routes(
    swarm: Any, client: Client, slug: str, detail: str, said: str
) -> None:
    swarm.refuse("POST /api/v1/machines/m-1/provision", 409, slug, detail)

    with pytest.raises(ApiError) as refused:
        client.post("machines", "m-1", "provision", body={})

    assert refused.value.message.startswith(said)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    swarm: Any, client: Client, notices: list[str], *, carried_out: bool
) -> None:
    swarm.machine("m-1")
    swarm.lose(carried_out=carried_out)

    client.post("machines", "m-1", "provision", body={"template": "t"})

    first, second = swarm.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body == {"template": "t"}
    assert notices == [f"{swarm.url} does not answer (the connection broke); trying again for up to 3 s"]


def test_two_posts_have_two_keys(swarm: Any, client: Client) -> None:
    swarm.machine("m-1")
    client.post("machines", "m-1", "provision", body={"template": "t"})
    client.post("machines", "m-1", "provision", body={"template": "t"})

    assert len({request.headers["idempotency-key"] for request in swarm.requests}) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_swarm_that_cannot_serve_now_is_asked_again(swarm: Any, client: Client, status: int) -> None:
    swarm.machine("m-1")
    swarm.fail(status)
    swarm.fail(status)

    assert client.get("machines", "m-1").retried
    assert len(swarm.requests) == 3


def test_retry_after_is_waited_for(swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.fail(503, Retry_After="2")
    pauses: list[float] = []
    client = Client(swarm.url, "df_test", patience=3, pause=pauses.append)

    client.get("machines", "m-1")
    client.close()

    assert pauses == [2.0]


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ("etcd is silent. Nothing was changed. Try again.", "etcd is silent. Nothing was changed. Trying again"),
        ("No replica is reached; try again.", "No replica is reached. Trying again"),
        ("it hands its work over", "it hands its work over; trying again"),
    ],
)
def test_that_it_tries_again_reads_well(swarm: Any, notices: list[str], client: Client, detail: str, told: str) -> None:
    swarm.machine("m-1")
    swarm.faults.append(problem(503, "store-unavailable", detail))

    client.post("machines", "m-1", "provision", body={"template": "t"})

    assert notices == [f"{told} for up to 3 s"]


def test_a_pause_longer_than_the_patience_is_not_begun(swarm: Any, client: Client) -> None:
    swarm.fail(503, Retry_After="60")

    with pytest.raises(ApiError) as caught:
        client.get("machines", "m-1")

    assert caught.value.exit_code == Exit.UNREACHABLE
    assert len(swarm.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422, 500])
def test_an_answer_that_stays_the_same_is_not_asked_for_again(swarm: Any, client: Client, status: int) -> None:
    swarm.fail(status)

    with pytest.raises(ApiError) as caught:
        client.get("machines")

    assert len(swarm.requests) == 1
    expected = {404: Exit.NOT_FOUND, 500: Exit.UNREACHABLE}
    assert caught.value.exit_code == expected.get(status, Exit.REFUSED)


def test_what_was_written_is_read_back_from_any_replica(swarm: Any, client: Client) -> None:
    swarm.machine("m-1")
    client.get("machines", "m-1")
    written = client.post("machines", "m-1", "provision", body={"template": "t"})

    client.get("machines", "m-1")

    assert [request.query for request in swarm.requests] == [{}, {}, {"minRevision": str(written.revision)}]


def test_field_errors_are_told_one_a_line(swarm: Any, client: Client) -> None:
    swarm.refuse(
        "POST /api/v1/machines",
        422,
        "invalid",
        "the machine breaks two rules",
        {"field": "spec.interfaces[0].mac", "message": "must be a MAC address", "value": "xx"},
        {"field": "spec.cluster", "message": "is required"},
    )

    with pytest.raises(ApiError) as caught:
        client.post("machines", body={})

    assert caught.value.slug == "invalid"
    assert caught.value.message == (
        "the machine breaks two rules\n"
        '  spec.interfaces[0].mac: must be a MAC address (not "xx")\n'
        "  spec.cluster: is required"
    )


def test_a_single_mistake_is_told_once(swarm: Any, client: Client) -> None:
    error = {"field": "parameters.a", "message": "is no parameter of this template", "value": 1}
    swarm.refuse("POST /api/v1/machines", 422, "invalid", "parameters.a is no parameter of this template", error)

    with pytest.raises(ApiError, match=r"^parameters\.a is no parameter of this template$"):
        client.post("machines", body={})


def test_a_failure_of_the_swarm_names_the_request_and_the_replica(swarm: Any, client: Client) -> None:
    swarm.fail(500, "internal")

    with pytest.raises(ApiError) as caught:
        client.get("machines")

    assert caught.value.advice == "For whoever looks into it: request r-1, replica b."


def test_another_program_at_the_address_is_told(swarm: Any, client: Client) -> None:
    swarm.reply("GET /api/v1/machines", 200, b"<html>", Content_Type="text/html")

    with pytest.raises(CliError, match="answered 200 with text/html, which is not Dragonfly's API"):
        client.get("machines")


def test_a_redirect_takes_the_token_nowhere(swarm: Any, client: Client) -> None:
    swarm.reply("GET /api/v1/machines", 302, None, Location=f"{swarm.url}/api/v1/templates")

    with pytest.raises(CliError, match=r"sends its visitors on to .*/api/v1/templates"):
        client.get("machines")

    assert [request.path for request in swarm.requests] == ["/api/v1/machines"]


def test_nobody_there_is_unreachable_after_the_patience() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{reserved.getsockname()[1]}", "t", patience=0.3)

        with pytest.raises(CliError, match=r"does not answer \(connection refused\)") as caught:
            client.get("machines")

    assert caught.value.exit_code == Exit.UNREACHABLE


def test_an_endless_answer_ends_when_somebody_else_hangs_up() -> None:
    """Who waits ends its stream, which may have nothing to say for a while."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Client(f"http://127.0.0.1:{server.getsockname()[1]}", "df_test")
        said: list[bytes] = []
        ways: list[Callable[[], None]] = []
        first = threading.Event()

        def follow() -> None:
            try:
                for data in client.stream(read("events"), opened=ways.append):
                    said.append(data)
                    first.set()
            except CliError:
                pass

        following = threading.Thread(target=follow)
        following.start()
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n")
            assert first.wait(20)
            (hang_up,) = ways
            hang_up()
            following.join(20)
            assert not following.is_alive()
            hang_up()  # once more does no harm
        client.close()

    assert said == [b":\n\n"]
