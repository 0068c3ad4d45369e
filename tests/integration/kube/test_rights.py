"""Each right of the shipped roles, taken away by itself on a real API server: the check names it, and it alone.

That each of them is used as well, and so none is one too many, is shown by the audit log (`tests/e2e/test_rights.py`).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client as kubernetes
from kubernetes import config

from dragonfly.controllers.checkup import examine
from dragonfly.controllers.guard import Guard
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.errors import NotFound
from dragonfly.kube.policy import binding_ref, policy_ref
from dragonfly.model.cluster import Checkup
from dragonfly.model.swarm import AdmissionPolicy
from dragonfly.sandbox.controlplane import ControlPlane
from tests.rights import FENCE, ROLE, Right, rights

pytestmark = pytest.mark.cluster

PLACE = "rights"
"""A namespace of this module's own, in the place of Tinkerbell's."""
DEADLINE = 60.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def without(document: dict[str, Any], right: Right) -> list[dict[str, Any]]:
    """The rules of a role, each for one resource, but for one right."""
    rules = []
    for rule in copy.deepcopy(document["rules"]):
        for resource in rule["resources"]:
            taken = (right.group, right.resource) == (rule["apiGroups"][0], resource)
            verbs = [verb for verb in rule["verbs"] if not (taken and verb == right.verb)]
            if verbs:
                rules.append({**rule, "resources": [resource], "verbs": verbs})
    return rules


OPTIONAL = Right("apps", "deployments", "get")
FENCES = sorted(right.named() for right in rights(FENCE))


class Accounts:
    """Makes service accounts that have all rights of a role but one."""

    def __init__(self, plane: ControlPlane, directory: Path, stack: ExitStack) -> None:
        api = stack.enter_context(config.new_client_from_config(str(plane.admin_kubeconfig)))  # type: ignore[no-untyped-call] # the library's config has no types
        self._core = kubernetes.CoreV1Api(api)
        self._rbac = kubernetes.RbacAuthorizationV1Api(api)
        self._kubeconfig = yaml.safe_load(plane.kubeconfig.read_text())
        self._directory = directory
        self._stack = stack
        self._core.create_namespace({"metadata": {"name": PLACE}})  # type: ignore[arg-type] # the library takes a dict too, its types do not
        stack.callback(self._core.delete_namespace, PLACE)

    def with_role(self, name: str, rules: list[dict[str, Any]]) -> Kubeconfig:
        self._rbac.create_namespaced_role(PLACE, {"metadata": {"name": name}, "rules": rules})  # type: ignore[arg-type] # the library takes a dict too, its types do not
        self._rbac.create_namespaced_role_binding(PLACE, self._binding(name, "Role"))
        return self._account(name)

    def with_cluster_role(self, name: str, rules: list[dict[str, Any]]) -> Kubeconfig:
        self._rbac.create_cluster_role({"metadata": {"name": name}, "rules": rules})  # type: ignore[arg-type] # the library takes a dict too, its types do not
        self._stack.callback(self._rbac.delete_cluster_role, name)
        self._rbac.create_cluster_role_binding(self._binding(name, "ClusterRole"))
        self._stack.callback(self._rbac.delete_cluster_role_binding, name)
        return self._account(name)

    def _binding(self, name: str, kind: str) -> Any:
        return {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": PLACE}],
        }

    def _account(self, name: str) -> Kubeconfig:
        self._core.create_namespaced_service_account(PLACE, {"metadata": {"name": name}})  # type: ignore[arg-type] # the library takes a dict too, its types do not
        asked: Any = {"spec": {"expirationSeconds": 3600}}
        answer: Any = self._core.create_namespaced_service_account_token(name, PLACE, asked)
        document = copy.deepcopy(self._kubeconfig)
        document["users"][0]["user"] = {"token": answer.status.token}
        path = self._directory / name
        path.write_text(yaml.safe_dump(document))
        return Kubeconfig((path,))


@pytest.fixture(scope="module")
def accounts(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    with ExitStack() as stack:
        yield Accounts(control_plane, tmp_path_factory.mktemp("accounts"), stack)


@pytest.fixture
async def admin(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    async with Connection(Kubeconfig((control_plane.admin_kubeconfig,))) as connection:
        yield connection


def lacks(found: Checkup) -> list[str]:
    return sorted(f"{right.verb} {right.resource}" for right in found.missing_rights)


def optional(found: Checkup) -> list[str]:
    return sorted(f"{right.verb} {right.resource}" for right in found.missing_optional)


async def settled(source: Kubeconfig, wanted: list[str]) -> Checkup:
    """What the check finds once the API server has heard of the role, which is a moment after it is made."""
    async with asyncio.timeout(DEADLINE), Connection(source) as kube:
        while True:
            found = await examine(kube, PLACE)
            if not found.error and len(found.missing_rights) <= len(wanted):
                return found
            await asyncio.sleep(0.1)


async def test_with_all_of_them_nothing_is_missing(accounts: Accounts) -> None:
    found = await settled(accounts.with_role("all", ROLE["rules"]), [])

    assert (found.error, found.missing_types, found.missing_rights) == ("", (), ())
    assert optional(found) == FENCES, "they are of another role"


@pytest.mark.parametrize("right", rights(ROLE), ids=Right.named)
async def test_the_one_that_is_taken_away_is_named(accounts: Accounts, right: Right) -> None:
    number = rights(ROLE).index(right)
    source = accounts.with_role(f"without-{number}", without(ROLE, right))
    wanted = [] if right == OPTIONAL else [right.named()]

    found = await settled(source, wanted)

    assert (found.error, found.missing_types, lacks(found)) == ("", (), wanted)
    assert optional(found) == sorted([*FENCES, right.named()] if right == OPTIONAL else FENCES)


@pytest.mark.parametrize("right", rights(FENCE), ids=Right.named)
async def test_without_a_right_of_the_fence_its_condition_says_which(
    accounts: Accounts, admin: Connection, right: Right
) -> None:
    rules = [{**rule, "resourceNames": [f"dragonfly-epoch.{PLACE}"]} for rule in FENCE["rules"]]
    source = accounts.with_cluster_role(
        f"rights-{rights(FENCE).index(right)}", without({**FENCE, "rules": rules}, right)
    )

    async with asyncio.timeout(DEADLINE), Connection(source) as kube:
        found = await first_look(kube, admin)
        while f"({right.named()})" not in found.message:  # the API server hears of a role a moment after it is made
            await asyncio.sleep(0.1)
            found = await first_look(kube, admin)

        # Without the whole role the first right is missing too, and is what the message says.
        checked = await examine(kube, PLACE)
        while checked.error or len(checked.missing_optional) > len((OPTIONAL, right)):
            await asyncio.sleep(0.1)
            checked = await examine(kube, PLACE)

    assert (found.installed, found.reason) == (False, "Forbidden")
    assert optional(checked) == sorted([OPTIONAL.named(), right.named()]), "and those of the other role"


async def first_look(kube: Connection, admin: Connection) -> AdmissionPolicy:
    """What the keeper of the policy finds where there is none."""
    for ref in (policy_ref(PLACE), binding_ref(PLACE)):
        with suppress(NotFound):
            await admin.delete(ref)
    keeper = Guard(kube, PLACE, mine=lambda: True, clock=lambda: 0.0, now=lambda: NOW)
    await keeper.look()
    return keeper.state or AdmissionPolicy(installed=False, reason="", since=NOW)
