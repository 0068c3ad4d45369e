"""Clusters at the command line: added from a kubeconfig, listed, described, checked, removed."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragonfly.sandbox.pki import Authority

ROUTE = "/api/v1/clusters"
UID = "3cc31835-97f2-483b-88d2-272ba65a1ef9"
CREATED = "2026-01-01T00:00:00Z"
FRA: dict[str, Any] = {
    "kind": "Cluster",
    "metadata": {"name": "fra", "revision": 7, "labels": {}, "tags": [], "createdAt": CREATED, "updatedAt": CREATED},
    "spec": {"shards": 2, "context": "fra", "namespace": "tinkerbell", "sites": ["fra1"]},
    "status": {
        "reachable": False,
        "since": CREATED,
        "reason": "no answer within 10 s",
        "server": "https://10.0.0.1:6443",
        "replicas": [
            {"replica": "b", "site": "ber1", "reachable": False, "since": CREATED, "reason": "refused"},
            {"replica": "a", "site": "fra1", "reachable": True},
        ],
        "owners": {"0": "a", "1": ""},
        "machines": 3,
    },
}


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("a-token\n")
    document = {
        "current-context": "fra",
        "contexts": [{"name": "fra", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}, {"name": "x", "user": {"exec": {"command": "aws"}}}],
    }
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(document))
    return file


def test_one_is_added_with_everything_inline(swarm: Any, at_swarm: Any, kubeconfig: Path) -> None:
    swarm.refuse(f"GET {ROUTE}/fra", 404, "not-found", "There is no cluster fra.")
    swarm.reply(f"POST {ROUTE}", 201, FRA)

    done = at_swarm("cluster", "add", "fra", "--kubeconfig", str(kubeconfig), "--site", "fra1", "--shards", "2")

    assert done.lines == ["cluster fra: added"]
    sent = swarm.requests[-1].body
    assert (sent["spec"]["sites"], sent["spec"]["shards"]) == (["fra1"], 2)
    assert json.loads(sent["spec"]["kubeconfig"])["users"][0]["user"] == {"token": "a-token"}


def test_how_much_of_it_is_taken_is_sent_kept_and_described(swarm: Any, at_swarm: Any, kubeconfig: Path) -> None:
    limits = {"qps": 50, "inFlight": 8}
    swarm.refuse(f"GET {ROUTE}/fra", 404, "not-found", "There is no cluster fra.")
    swarm.reply(f"POST {ROUTE}", 201, FRA)
    at_swarm("cluster", "add", "fra", "--kubeconfig", str(kubeconfig), "--qps", "50", "--in-flight", "8")
    assert limits.items() <= swarm.requests[-1].body["spec"].items()

    swarm.reply(f"GET {ROUTE}/fra", 200, FRA | {"spec": FRA["spec"] | limits})
    swarm.reply(f"PUT {ROUTE}/fra", 200, FRA)
    at_swarm("cluster", "add", "fra", "--kubeconfig", str(kubeconfig))
    assert limits.items() <= swarm.requests[-1].body["spec"].items()
    assert re.search(r"^Calls at once:? +8$", at_swarm("describe", "cluster", "fra").out, re.MULTILINE)
    assert at_swarm("cluster", "add", "fra", "--in-flight", "0").code == 2


def test_one_that_is_there_gets_new_credentials_and_keeps_the_rest(swarm: Any, at_swarm: Any, kubeconfig: Path) -> None:
    swarm.reply(f"GET {ROUTE}/fra", 200, FRA)
    swarm.reply(f"PUT {ROUTE}/fra", 200, FRA)

    done = at_swarm("cluster", "add", "fra", "--kubeconfig", str(kubeconfig))

    assert done.lines == ["cluster fra: changed"]
    request = swarm.requests[-1]
    assert request.headers["if-match"] == '"7"'
    assert request.body["spec"]["sites"] == ["fra1"]
    assert "a-token" in request.body["spec"]["kubeconfig"]


def test_a_kubeconfig_that_cannot_be_sent_is_told(at_swarm: Any, kubeconfig: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(kubeconfig.read_text())
    document["contexts"][0]["context"]["user"] = "x"
    kubeconfig.write_text(yaml.safe_dump(document))

    plugin = at_swarm("cluster", "add", "fra", "--kubeconfig", str(kubeconfig))
    missing = at_swarm("cluster", "add", "fra", "--kubeconfig", str(tmp_path / "none"))

    assert (plugin.code, missing.code) == (2, 2)
    assert "kubectl create token" in plugin.err
    assert "no kubeconfig at" in missing.err


def test_an_expired_client_certificate_is_told_before_anything_is_sent(
    swarm: Any, at_swarm: Any, kubeconfig: Path, tmp_path: Path
) -> None:
    client = Authority(tmp_path, "a-ca", datetime(2020, 1, 1, tzinfo=UTC)).client("ada")
    document = yaml.safe_load(kubeconfig.read_text())
    document["users"][0]["user"] = {"client-certificate": str(client.certificate), "client-key": str(client.key)}
    kubeconfig.write_text(yaml.safe_dump(document))

    done = at_swarm("cluster", "add", "fra", "--kubeconfig", str(kubeconfig))

    assert done.code == 2
    assert "client-certificate: expired at 2020-12-31T00:00:00Z; get a new one" in done.err
    assert not swarm.requests


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "clusters[0].cluster.certificate-authority",
            "clusters[c].cluster.certificate-authority: cannot read {}/gone: No",
        ),
        ("users[0].user.tokenFile", "users[u].user.tokenFile: cannot read {}/gone: No such file"),
        ("users[0].user", "users[u].user: has no credentials: it needs a token"),
        ("contexts[0].context.user", "the kubeconfig has no user 'gone'; there is u, x"),
        ("", "current-context: is empty; there is no context at all"),
    ],
)
def test_what_is_wrong_in_a_kubeconfig_is_told_by_its_field(
    swarm: Any, at_swarm: Any, kubeconfig: Path, change: str, told: str
) -> None:
    document = yaml.safe_load(kubeconfig.read_text())
    match change.split("."):
        case [section, kind, field]:
            document[section.removesuffix("[0]")][0][kind][field] = "gone"
        case ["users[0]", "user"]:
            document["users"][0]["user"] = {}
        case _:
            document = {}
    kubeconfig.write_text(yaml.safe_dump(document) if document else "")

    done = at_swarm("cluster", "add", "fra", "--kubeconfig", str(kubeconfig))

    assert done.code == 2
    assert f"{told.format(kubeconfig.parent)}" in done.err
    assert str(kubeconfig) in done.err
    assert not swarm.requests, "nothing was sent"


def test_help_says_what_cannot_be_registered_and_names_every_command(dragonfly: Any) -> None:
    assert "Exec plugins" in dragonfly("cluster", "add", "--help").out
    words = dragonfly("cluster", "--help").out.partition("Options:")[0]
    assert [name for name in ("add", "check", "remove", "locate") if name not in words] == []


def test_a_list_and_a_description_tell_how_it_is(swarm: Any, at_swarm: Any) -> None:
    swarm.reply(f"GET {ROUTE}", 200, {"kind": "ClusterList", "revision": 8, "total": 1, "items": [FRA]})
    swarm.reply(f"GET {ROUTE}/fra", 200, FRA)

    head, row = at_swarm("get", "c").lines
    described = at_swarm("describe", "cluster", "fra").out

    assert head.split()[:4] == ["NAME", "REACHABLE", "SHARDS", "MACHINES"]
    assert row.startswith("fra")
    assert "1/2" in row
    assert "no answer within 10 s" in described
    assert re.search(r"^a +fra1 +yes", described, re.MULTILINE)
    assert re.search(r"^b +ber1 +no, since .* refused$", described, re.MULTILINE)
    assert "fra1: a" in at_swarm("get", "c", "-o", "wide").out
    assert "https://10.0.0.1:6443" in described


def test_a_replica_that_cannot_ask_it_says_who_can(swarm: Any, at_swarm: Any) -> None:
    found = {"cluster": "fra", "replica": "c", "ok": False, "error": "refused", "reachedBy": {"a": "10.0.0.1:3000"}}
    swarm.reply(f"POST {ROUTE}/fra/check", 200, found)

    done = at_swarm("cluster", "check", "fra")

    assert (done.code, done.lines) == (
        1,
        [
            "cluster fra: cannot be asked (replica c asked): refused",
            "cluster fra: replica a reaches it: ask it with --server http://10.0.0.1:3000",
        ],
    )


def test_optional_rights_are_told_with_what_comes_of_them(swarm: Any, at_swarm: Any) -> None:
    late = "the API server itself does not refuse late writers"
    policies = "validatingadmissionpolicies.admissionregistration.k8s.io"
    found = {
        "kind": "ClusterCheck",
        "cluster": "fra",
        "replica": "a",
        "ok": True,
        "error": "",
        "version": "v1.36.3",
        "missingTypes": [],
        "missingRights": [],
        "missingOptional": [
            {"verb": "get", "resource": "deployments.apps", "without": "Tinkerbell's version is not told"},
            {"verb": "get", "resource": policies, "without": late},
            {"verb": "patch", "resource": policies, "without": late},
        ],
    }
    swarm.reply(f"POST {ROUTE}/fra/check", 200, found)

    told = at_swarm("cluster", "check", "fra")

    assert told.code == 0
    assert told.out.splitlines()[:2] == [
        "cluster fra: optional: get deployments.apps: without it Tinkerbell's version is not told",
        f"cluster fra: optional: get, patch {policies}: without it {late}",
    ]


def test_what_it_lacks_ends_with_exit_code_1(swarm: Any, at_swarm: Any) -> None:
    found = {
        "kind": "ClusterCheck",
        "cluster": "fra",
        "replica": "a",
        "ok": False,
        "error": "",
        "version": "v1.36.3",
        "missingTypes": ["workflows.tinkerbell.org"],
        "missingRights": [{"verb": "get", "resource": "secrets"}, {"verb": "patch", "resource": "secrets"}],
    }
    swarm.reply(f"POST {ROUTE}/fra/check", 200, found)
    lacking = at_swarm("cluster", "check", "fra")
    swarm.reply(f"POST {ROUTE}/fra/check", 200, found | {"ok": True, "missingTypes": [], "missingRights": []})
    former = at_swarm("cluster", "check", "fra")
    more = {"ok": True, "missingTypes": [], "missingRights": [], "tinkerbell": "v0.25.0", "namespace": "tinkerbell"}
    swarm.reply(f"POST {ROUTE}/fra/check", 200, found | more)
    well = at_swarm("cluster", "check", "fra")

    assert (lacking.code, well.code) == (1, 0)
    assert "has no workflows.tinkerbell.org" in lacking.out
    assert "may not get, patch secrets" in lacking.out
    assert "has all that Dragonfly needs (replica a asked, Kubernetes v1.36.3)" in former.out
    assert "optional" not in well.out
    words = "needs in namespace tinkerbell (replica a asked, Kubernetes v1.36.3, Tinkerbell v0.25.0)"
    assert words in well.out


@pytest.mark.parametrize(("ok", "error", "code"), [(True, "", 0), (False, "", 1), (False, "no answer within 10 s", 1)])
def test_a_checkup_for_scripts_is_as_the_api_gave_it(
    swarm: Any, at_swarm: Any, ok: bool, error: str, code: int
) -> None:
    found = {"cluster": "fra", "replica": "a", "ok": ok, "error": error, "missingTypes": [], "missingRights": []}
    swarm.reply(f"POST {ROUTE}/fra/check", 200, found)

    done = at_swarm("cluster", "check", "fra", "-o", "json")

    assert (done.code, json.loads(done.out)) == (code, found)


def test_one_is_removed_only_if_somebody_says_so(swarm: Any, at_swarm: Any) -> None:
    swarm.reply(f"GET {ROUTE}/fra", 200, FRA)
    swarm.reply(f"DELETE {ROUTE}/fra", 204, None)

    assert at_swarm("cluster", "remove", "fra").code == 2
    assert at_swarm("cluster", "remove", "fra", "--yes").lines == ["cluster fra: removed"]


def test_which_cluster_local_is_can_be_said(swarm: Any, at_swarm: Any) -> None:
    local = {
        "metadata": {"name": "local", "revision": 3, "labels": {}, "tags": []},
        "spec": {"shards": 8, "sites": ["x"]},
    }
    swarm.reply(f"GET {ROUTE}/local", 200, local)
    swarm.reply(f"PUT {ROUTE}/local", 200, local)

    done = at_swarm("cluster", "locate", "local", UID.upper())

    assert done.lines == [f"cluster local: is the one whose namespace has the uid {UID}"]
    request = swarm.requests[-1]
    assert request.headers["if-match"] == '"3"'
    assert request.body["spec"] == {"shards": 8, "sites": ["x"], "namespaceUid": UID}


@pytest.mark.parametrize("uid", ["3cc31835", "tinkerbell", "", f"{UID}0"])
def test_what_is_no_uid_is_refused_before_anything_is_asked(swarm: Any, at_swarm: Any, uid: str) -> None:
    done = at_swarm("cluster", "locate", "local", uid)

    assert done.code == 2
    assert "kubectl get namespace" in done.err
    assert not swarm.requests


def test_the_cluster_of_the_pods_is_added_without_a_kubeconfig(swarm: Any, at_swarm: Any, kubeconfig: Path) -> None:
    swarm.refuse(f"GET {ROUTE}/fra", 404, "not-found", "There is no cluster fra.")
    swarm.reply(f"POST {ROUTE}", 201, FRA)

    done = at_swarm("cluster", "add", "fra", "--in-cluster", "--site", "fra1")
    both = at_swarm("cluster", "add", "fra", "--in-cluster", "--kubeconfig", str(kubeconfig))

    assert done.lines == ["cluster fra: added"]
    assert swarm.requests[-1].body["spec"] == {"inCluster": True, "sites": ["fra1"]}
    assert (both.code, "leave --kubeconfig and --context out" in both.err) == (2, True)
