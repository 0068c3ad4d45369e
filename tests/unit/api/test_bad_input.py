"""Whatever is wrong with a request is told precisely, and nothing was changed."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.api.replicas import (
    ANY,
    MERGE,
    Replica,
    World,
    fields_of,
    mac,
    machine_document,
    problem_of,
    template_document,
)

MACHINES = "/api/v1/machines"


@pytest.fixture
async def untouched(replica: Replica) -> AsyncIterator[Replica]:
    """A replica with a machine and a template, whose store must be the same at the end."""
    await replica.machine("m-1", mac(1))
    await replica.template(
        parameters={
            "properties": {"disk": {"type": "string"}, "size": {"type": "integer", "minimum": 1}},
            "required": ["disk"],
        }
    )
    before = (replica.store.revision, replica.store.items())
    yield replica
    assert (replica.store.revision, replica.store.items()) == before


SPEC_MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"interfaces": [{"mac": mac(2), "foo": 1}]}, "spec.interfaces[0].foo", "is unknown; there are mac, address"),
    ({"interfaces": [{"mac": mac(2)}], "colour": "red"}, "spec.colour", "is unknown"),
    ({"interfaces": [{"mac": "no mac"}]}, "spec.interfaces[0].mac", "must be a MAC address"),
    ({"interfaces": [{"mac": 12}]}, "spec.interfaces[0].mac", "expected `str`, got `int`"),
    ({"interfaces": [{}]}, "spec.interfaces[0].mac", "is required"),
    ({"interfaces": []}, "spec.interfaces", "at least one"),
    ({"interfaces": [{"mac": mac(2)}, {"mac": mac(2)}]}, "spec.interfaces[1].mac", "is already that of"),
    ({"interfaces": [{"mac": mac(2)}], "arch": "sparc"}, "spec.arch", "must be one of x86_64, aarch64"),
    ({"interfaces": [{"mac": mac(2)}], "cluster": "mars"}, "spec.cluster", "is no cluster of this swarm"),
    ({"interfaces": [{"mac": mac(2)}], "boot": "netboot"}, "spec.boot", "needs spec.bmc"),
    (
        {"interfaces": [{"mac": mac(2)}], "locked": {"reason": "x", "by": "y", "at": "2026-01-01T00:00:00Z"}},
        "spec.locked",
        "is set by POST machines/{name}/lock",
    ),
]


@pytest.mark.parametrize(("spec", "field", "message"), SPEC_MISTAKES)
async def test_a_wrong_spec_names_the_field_and_what_is_allowed(
    untouched: Replica, spec: dict[str, Any], field: str, message: str
) -> None:
    response = await untouched.http.post(MACHINES, json={"metadata": {"name": "m-2"}, "spec": spec})

    problem = problem_of(response, 422, "invalid")
    assert fields_of(problem) == [field]
    assert message in problem["errors"][0]["message"]


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"name": "Not_A_Label"}, "metadata.name"),
        ({"name": "m-2", "labels": {"a": 1}}, "metadata.labels.a"),
        ({"name": "m-2", "labels": {"a": "no blanks"}}, "metadata.labels[a]"),
        ({"name": "m-2", "tags": ["-"]}, "metadata.tags[0]"),
        ({"name": "m-2", "label": {}}, "metadata.label"),
    ],
)
async def test_wrong_metadata_is_told(untouched: Replica, metadata: dict[str, Any], field: str) -> None:
    document = machine_document("m-2", mac(2)) | {"metadata": metadata}

    problem = problem_of(await untouched.http.post(MACHINES, json=document), 422, "invalid")

    assert fields_of(problem) == [field]


async def test_a_mac_of_another_machine_names_that_machine(untouched: Replica) -> None:
    response = await untouched.http.post(MACHINES, json=machine_document("m-2", mac(1).upper().replace(":", "-")))

    problem = problem_of(response, 409, "mac-in-use")
    assert fields_of(problem) == ["spec.interfaces[0].mac"]
    assert "already belongs to machine m-1 in cluster local" in problem["detail"]


async def test_a_taken_name_is_told(untouched: Replica) -> None:
    response = await untouched.http.post(MACHINES, json=machine_document("m-1", mac(2)))

    assert "m-1 exists already" in problem_of(response, 409, "already-exists")["detail"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "truncated"),
        (b"", "truncated"),
        (b"\xff\xfe", "no JSON"),
        (b'{"spec": NaN}', "no JSON"),
        (b'{"metadata": {"name": "\\ud800"}, "spec": {}}', "no JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b'{"spec": ' + b"9" * 5_000 + b"}", "no JSON"),
    ],
)
async def test_what_is_no_json_is_told(untouched: Replica, body: bytes, words: str) -> None:
    response = await untouched.http.post(MACHINES, content=body, headers={"Content-Type": "application/json"})

    assert words in problem_of(response, 400, "malformed")["detail"]


async def test_a_field_given_twice_is_told_with_its_place(untouched: Replica) -> None:
    body = b'{"spec": {"interfaces": [{"mac": "02:00:00:00:00:02", "mac": "02:00:00:00:00:03"}]}, "spec": {}}'

    response = await untouched.http.post(MACHINES, content=body, headers={"Content-Type": "application/json"})

    assert fields_of(problem_of(response, 422, "invalid")) == ["spec"]
    once = body.replace(b', "spec": {}', b"")
    response = await untouched.http.post(MACHINES, content=once, headers={"Content-Type": "application/json"})
    assert fields_of(problem_of(response, 422, "invalid")) == ["spec.interfaces[0].mac"]


@pytest.mark.parametrize("body", [[], "text", 7, None])
async def test_a_body_that_is_no_object_is_told(untouched: Replica, body: Any) -> None:
    response = await untouched.http.post(
        MACHINES, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )

    assert fields_of(problem_of(response, 422, "invalid")) == ["(body)"]


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/json; charset=latin-1", MERGE])
async def test_another_media_type_is_refused(untouched: Replica, content_type: str) -> None:
    body = json.dumps(machine_document("m-2", mac(2)))

    response = await untouched.http.post(MACHINES, content=body, headers={"Content-Type": content_type})

    assert "must be application/json" in problem_of(response, 415, "unsupported-media-type")["detail"]
    assert response.headers["accept-post"] == "application/json"


async def test_a_compressed_body_is_refused(untouched: Replica) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    problem_of(await untouched.http.post(MACHINES, content=b"x", headers=headers), 415, "unsupported-media-type")


async def test_a_patch_wants_its_own_media_type(untouched: Replica) -> None:
    response = await untouched.http.patch(f"{MACHINES}/m-1", json={}, headers=ANY)

    problem_of(response, 415, "unsupported-media-type")
    assert response.headers["accept-patch"] == MERGE


async def test_a_body_of_more_than_1_mib_is_refused_by_its_length(untouched: Replica) -> None:
    document = machine_document("m-2", mac(2), userData="x" * (1 << 20))

    response = await untouched.http.post(MACHINES, json=document)

    problem_of(response, 413, "body-too-large")
    assert "connection" not in response.headers, "closed with unread bytes it would be reset, and the answer lost"


async def test_a_body_of_more_than_1_mib_is_refused_while_it_is_read(untouched: Replica) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 1
            yield b" " * (64 << 10)

    response = await untouched.http.post(MACHINES, content=chunks(), headers={"Content-Type": "application/json"})

    problem_of(response, 413, "body-too-large")
    assert sent < 20, "it is not read to its end"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_a_change_without_if_match_is_refused(untouched: Replica, method: str) -> None:
    problem_of(await untouched.http.request(method, f"{MACHINES}/m-1"), 428, "if-match-required")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("etag", ['"1"', 'W/"2"', '"1", "7777"', '""'])
async def test_a_change_of_another_revision_is_refused_with_the_current_one(
    untouched: Replica, method: str, etag: str
) -> None:
    machine = await untouched.get(f"{MACHINES}/m-1")
    body = {} if method == "DELETE" else machine_document("m-1", mac(9))
    media_type = MERGE if method == "PATCH" else "application/json"

    response = await untouched.http.request(
        method,
        f"{MACHINES}/m-1",
        content=json.dumps(body),
        headers={"If-Match": etag, "Content-Type": media_type},
    )

    problem = problem_of(response, 412, "revision-mismatch")
    assert problem["currentRevision"] == machine["metadata"]["revision"]


async def test_an_if_match_that_is_no_etag_is_told(untouched: Replica) -> None:
    response = await untouched.http.delete(f"{MACHINES}/m-1", headers={"If-Match": "42"})

    assert "double quotes" in problem_of(response, 400, "malformed")["detail"]


async def test_an_unknown_template_lists_those_there_are(untouched: Replica) -> None:
    response = await untouched.http.post(f"{MACHINES}/m-1/provision", json={"template": "debian"})

    problem = problem_of(response, 422, "unknown-template")
    assert fields_of(problem) == ["template"]
    assert "there are ubuntu" in problem["errors"][0]["message"]


@pytest.mark.parametrize("template", ["", "a/b", "a\0b", "../machines/m-1"])
async def test_a_name_that_no_template_can_have_is_unknown(untouched: Replica, template: str) -> None:
    response = await untouched.http.post(f"{MACHINES}/m-1/provision", json={"template": template})

    problem_of(response, 422, "unknown-template")


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "parameters.disk"),
        ({"disk": "/dev/sda", "dsk": "x"}, "parameters.dsk"),
        ({"disk": 1}, "parameters.disk"),
        ({"disk": "/dev/sda", "size": 0}, "parameters.size"),
    ],
)
async def test_parameters_that_do_not_fit_the_template_are_told(
    untouched: Replica, parameters: dict[str, Any], field: str
) -> None:
    response = await untouched.http.post(
        f"{MACHINES}/m-1/provision", json={"template": "ubuntu", "parameters": parameters}
    )

    assert fields_of(problem_of(response, 422, "invalid")) == [field]


async def test_a_template_without_a_timeout_is_told(untouched: Replica) -> None:
    document = template_document("debian", actions=[{"name": "a", "image": "busybox"}])

    problem = problem_of(await untouched.http.post("/api/v1/templates", json=document), 422, "invalid")

    assert fields_of(problem) == ["spec.actions[0].timeout"]


async def test_a_template_without_a_name_is_told(untouched: Replica) -> None:
    problem = problem_of(await untouched.http.post("/api/v1/templates", json=template_document("")), 422, "invalid")

    assert fields_of(problem) == ["metadata.name"]


@pytest.mark.parametrize("path", ["machines/none", "templates/none", "provisions/01J00000000000000000000999"])
async def test_what_does_not_exist_is_not_found(untouched: Replica, path: str) -> None:
    problem_of(await untouched.http.get(f"/api/v1/{path}"), 404, "not-found")


@pytest.mark.parametrize("name", ["%00", "a%00b", "%F0%9F%90%9D", "a b", "x" * 300])
async def test_what_can_be_no_name_is_not_found(untouched: Replica, name: str) -> None:
    problem_of(await untouched.http.get(f"{MACHINES}/{name}"), 404, "not-found")
    problem_of(await untouched.http.delete(f"{MACHINES}/{name}", headers=ANY), 404, "not-found")


async def test_an_unknown_route_is_told_as_a_problem(untouched: Replica) -> None:
    assert "/openapi.json" in problem_of(await untouched.http.get("/api/v1/machine"), 404, "not-found")["detail"]
    problem_of(await untouched.http.get("/api/v1/machines/"), 404, "not-found")


async def test_a_method_that_a_route_has_not_names_those_it_has(untouched: Replica) -> None:
    response = await untouched.http.post(f"{MACHINES}/m-1")

    problem_of(response, 405, "method-not-allowed")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "PUT", "PATCH", "DELETE"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("labelselector=a", "?labelselector"),
        ("limit=0", "?limit"),
        ("limit=1001", "?limit"),
        ("limit=ten", "?limit"),
        ("limit=1&limit=2", "?limit"),
        ("sort=color", "?sort"),
        ("sort=--name", "?sort"),
        ("cursor=%21%21", "?cursor"),
        ("cursor=e30", "?cursor"),
        ("labelSelector=a+b", "?labelSelector"),
        ("labelSelector=a+in+b", "?labelSelector"),
        ("minRevision=new", "?minRevision"),
    ],
)
async def test_a_wrong_query_is_told(untouched: Replica, query: str, field: str) -> None:
    assert fields_of(problem_of(await untouched.http.get(f"{MACHINES}?{query}"), 422, "invalid")) == [field]


async def test_a_query_where_none_is_known_is_told(untouched: Replica) -> None:
    response = await untouched.http.post(f"{MACHINES}?dryRun=true", json=machine_document("m-2", mac(2)))

    assert fields_of(problem_of(response, 422, "invalid")) == ["?dryRun"]


async def test_a_machine_cannot_be_renamed(untouched: Replica) -> None:
    response = await untouched.http.put(f"{MACHINES}/m-1", json=machine_document("m-9", mac(1)), headers=ANY)

    assert fields_of(problem_of(response, 422, "invalid")) == ["metadata.name"]


async def test_a_patch_that_breaks_rules_names_the_field(untouched: Replica) -> None:
    for change, field in (
        ({"spec": {"interfaces": None}}, "spec.interfaces"),
        ({"spec": {"colour": "red"}}, "spec.colour"),
        ({"spec": None}, "spec"),
        ({"kind": "Template"}, "kind"),
    ):
        response = await untouched.http.patch(
            f"{MACHINES}/m-1", content=json.dumps(change), headers=ANY | {"Content-Type": MERGE}
        )
        assert fields_of(problem_of(response, 422, "invalid")) == [field]


async def test_a_patch_that_is_no_object_is_told(untouched: Replica) -> None:
    response = await untouched.http.patch(f"{MACHINES}/m-1", content="[]", headers=ANY | {"Content-Type": MERGE})

    assert fields_of(problem_of(response, 422, "invalid")) == ["(body)"]


async def test_a_lock_without_a_reason_is_told(untouched: Replica) -> None:
    response = await untouched.http.post(f"{MACHINES}/m-1/lock", json={"reason": " "})

    assert fields_of(problem_of(response, 422, "invalid")) == ["reason"]


async def test_a_machine_too_large_for_one_transaction_is_told(world: World) -> None:
    replica = world.replica()
    interfaces = [{"mac": mac(number)} for number in range(200)]
    before = replica.store.revision

    response = await replica.http.post(MACHINES, json={"spec": {"interfaces": interfaces}})

    problem_of(response, 413, "body-too-large")
    assert replica.store.revision == before
