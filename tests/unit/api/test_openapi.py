"""The description of the API is valid and whole; the page keeps to its policy."""

import re
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from starlette.routing import Route

from dragonfly.api.app import OPERATIONS
from dragonfly.api.page import content_security_policy
from dragonfly.api.problems import PROBLEMS
from dragonfly.feed import views
from dragonfly.model.machine import MachineSpec, MachineStatus
from dragonfly.model.provision import ProvisionStatus, ProvisionSummary
from dragonfly.model.template import TemplateSpec
from tests.unit.api.replicas import Replica


@pytest.fixture
async def document(replica: Replica) -> dict[str, Any]:
    return await replica.get("/openapi.json")


def test_it_is_valid(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"].startswith("3.1")


def test_it_has_every_route_of_the_application_and_no_other(replica: Replica, document: dict[str, Any]) -> None:
    served = {
        (route.path, method.lower())
        for route in replica.app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {(path, name) for path, item in document["paths"].items() for name in item if name != "parameters"}

    assert described == served
    assert len(served) >= len(OPERATIONS)


def test_every_operation_has_an_id_of_its_own_and_tells_its_success(document: dict[str, Any]) -> None:
    operations = [item[name] for item in document["paths"].values() for name in item if name != "parameters"]

    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(any(status.startswith("2") for status in operation["responses"]) for operation in operations)


def test_a_secret_is_write_only(document: dict[str, Any]) -> None:
    assert document["components"]["schemas"]["Bmc"]["properties"]["password"]["writeOnly"] is True


def test_every_problem_that_an_operation_tells_of_exists() -> None:
    told = {kind for operation in OPERATIONS for kind in operation.problems}

    assert told <= PROBLEMS.keys()


@pytest.mark.parametrize(
    ("view", "record"),
    [
        (views.MachineSpecView, MachineSpec),
        (views.MachineStatusView, MachineStatus),
        (views.ProvisionStatusView, ProvisionStatus),
        (views.ProvisionSummaryView, ProvisionSummary),
        (views.TemplateSpecView, TemplateSpec),
    ],
)
def test_a_view_has_all_that_its_record_has(view: Any, record: Any) -> None:
    assert set(record.__struct_fields__) <= set(view.__struct_fields__)


async def test_answers_fit_their_description(replica: Replica, document: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    from tests.unit.api.replicas import mac

    await replica.machine("m-1", mac(1), bmc={"host": "h", "password": "p"})
    await replica.template()
    await replica.provision("m-1")
    answers = {
        "MachineView": await replica.get("/api/v1/machines/m-1"),
        "MachineList": await replica.get("/api/v1/machines"),
        "TemplateView": await replica.get("/api/v1/templates/ubuntu"),
        "TemplateList": await replica.get("/api/v1/templates"),
        "ProvisionList": await replica.get("/api/v1/provisions"),
        "SwarmView": await replica.get("/api/v1/swarm"),
        "ProblemDocument": (await replica.http.get("/api/v1/none")).json(),
    }
    for name, answer in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema).validate(answer)


async def test_the_page_is_whole_in_itself_and_its_policy_allows_nothing_else(replica: Replica) -> None:
    async with replica.client() as http:
        response = await http.get("/")
    policy = response.headers["content-security-policy"]

    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.search(r"script-src 'sha256-\S+'; style-src 'sha256-\S+'; connect-src 'self'", policy)
    html = response.text
    assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(| on\w+=| style=", html)
    assert html.count("<script") == html.count("<script>") == 1, "the policy's hash is of a plain element"
    assert content_security_policy(html) == policy


def test_the_page_is_part_of_the_package() -> None:
    import dragonfly.api

    assert (Path(dragonfly.api.__file__).parent / "ui" / "index.html").is_file()
