import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

MACHINE = """\
kind: Machine
metadata:
  name: m-1
  labels: {site: fra}
spec:
  cluster: local
  interfaces:
  - mac: 52:54:00:12:34:56
    address: 10.0.0.11/24
"""
TEMPLATE = """\
kind: Template
metadata: {name: debian}
spec:
  os: {family: debian, version: "13"}
  actions:
  - {name: write, image: quay.io/x/y:1, timeout: 60}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "all.yaml").write_text(f"{MACHINE}---\n{TEMPLATE}---\n")
    return tmp_path / "all.yaml"


def test_apply_creates_leaves_and_changes(swarm: Any, at_swarm: Any, files: Path) -> None:
    assert at_swarm("apply", "-f", str(files)) == (0, "machine m-1: created\ntemplate debian: created\n", "")
    assert at_swarm("apply", "-f", str(files)).lines == ["machine m-1: unchanged", "template debian: unchanged"]

    files.write_text(MACHINE.replace("10.0.0.11", "10.0.0.12"))
    before = swarm.objects["machines"]["m-1"]["metadata"]["revision"]
    assert at_swarm("apply", "-f", str(files)).lines == ["machine m-1: configured"]
    put = next(request for request in swarm.requests if request.method == "PUT")
    assert put.headers["if-match"] == f'"{before}"'
    assert swarm.objects["machines"]["m-1"]["spec"]["interfaces"][0]["address"] == "10.0.0.12/24"


def test_a_mac_is_no_number_and_no_is_no_boolean(swarm: Any, at_swarm: Any, tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(MACHINE.replace("{site: fra}", "{site: no, n: 012, d: 2026-01-01}"))

    at_swarm("apply", "-f", str(file))

    (body,) = swarm.bodies("POST", "/api/v1/machines")
    assert body["spec"]["interfaces"][0]["mac"] == "52:54:00:12:34:56"
    assert body["metadata"]["labels"] == {"site": "no", "n": "012", "d": "2026-01-01"}


def test_defaults_and_spellings_are_no_difference(swarm: Any, at_swarm: Any, files: Path) -> None:
    at_swarm("apply", "-f", str(files))
    files.write_text(MACHINE.replace("52:54:00:12:34:56", "52-54-00-12-34-56") + "  firmware: uefi\n  boot: none\n")

    assert at_swarm("apply", "-f", str(files)).lines == ["machine m-1: unchanged"]


def test_a_password_is_always_sent(swarm: Any, at_swarm: Any, files: Path) -> None:
    files.write_text(MACHINE + "  bmc: {host: 10.0.0.2, password: secret}\n")
    at_swarm("apply", "-f", str(files))

    assert at_swarm("apply", "-f", str(files)).lines == ["machine m-1: configured"]


def test_what_was_got_can_be_applied(swarm: Any, at_swarm: Any, files: Path) -> None:
    at_swarm("apply", "-f", str(files))
    swarm.machine("m-2")["spec"]["locked"] = {"reason": "r", "by": "ada", "at": "2026-01-01T00:00:00Z"}
    files.write_text(at_swarm("get", "m", "-o", "yaml").out)

    assert at_swarm("apply", "-f", str(files)).lines == ["machine m-1: unchanged", "machine m-2: unchanged"]


def test_an_unknown_key_is_put_before_the_swarm_for_what_is_there_too(swarm: Any, at_swarm: Any, files: Path) -> None:
    at_swarm("apply", "-f", str(files))
    files.write_text(MACHINE + "sepc: {}\n")
    swarm.refuse("PUT /api/v1/machines/m-1", 422, "invalid", "sepc is unknown")

    done = at_swarm("apply", "-f", str(files))

    assert (done.code, done.out) == (4, "")
    assert "sepc is unknown" in done.err


def test_a_file_that_is_older_than_what_is_there_takes_nothing_back(swarm: Any, at_swarm: Any, files: Path) -> None:
    at_swarm("apply", "-f", str(files))
    old = swarm.objects["machines"]["m-1"]["metadata"]["revision"]
    mine = MACHINE.replace("  name: m-1\n", f"  name: m-1\n  revision: {old}\n").replace("10.0.0.11", "10.0.0.12")
    files.write_text(MACHINE.replace("10.0.0.11", "10.0.0.13"))
    at_swarm("apply", "-f", str(files))
    files.write_text(mine)

    refused = at_swarm("apply", "-f", str(files))
    files.write_text(mine.replace(f"  revision: {old}\n", ""))
    forced = at_swarm("apply", "-f", str(files))

    assert (refused.code, refused.out) == (4, "")
    assert f"the file is of revision {old}, and by now there is {old + 2}. Remove metadata.revision" in refused.err
    assert forced.lines == ["machine m-1: configured"]


def test_standard_input_and_json(swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(yaml.safe_load(TEMPLATE))))

    assert at_swarm("apply", "-f", "-").lines == ["template debian: created"]


def test_a_machine_without_a_name_gets_the_one_that_the_api_would_make(swarm: Any, at_swarm: Any, files: Path) -> None:
    files.write_text(MACHINE.replace("  name: m-1\n", ""))

    first = at_swarm("apply", "-f", str(files)).out
    second = at_swarm("apply", "-f", str(files)).out

    assert first.endswith(": created\n")
    assert second == first.replace("created", "unchanged")


def test_somebody_elses_change_in_between_is_no_conflict(swarm: Any, at_swarm: Any, files: Path) -> None:
    at_swarm("apply", "-f", str(files))
    files.write_text(MACHINE.replace("10.0.0.11", "10.0.0.12"))
    swarm.faults.append(None)
    swarm.fail(412, "changed")

    assert at_swarm("apply", "-f", str(files)).lines == ["machine m-1: configured"]


def test_a_change_whose_answer_was_lost_is_found_to_be_made(swarm: Any, at_swarm: Any, files: Path) -> None:
    at_swarm("apply", "-f", str(files))
    files.write_text(MACHINE.replace("10.0.0.11", "10.0.0.12"))
    swarm.faults.append(None)
    swarm.lose(carried_out=True)

    done = at_swarm("apply", "-f", str(files))

    assert done.code == 0
    assert done.lines == ["machine m-1: unchanged"]


def test_a_refused_document_keeps_no_other_from_being_applied(swarm: Any, at_swarm: Any, files: Path) -> None:
    swarm.refuse("POST /api/v1/machines", 422, "invalid", "no", {"field": "spec.arch", "message": "bad", "value": "x"})

    done = at_swarm("apply", "-f", str(files))

    assert done.code == 4
    assert done.lines == ["template debian: created"]
    assert done.err == f'dragonfly: {files}, document 1: machine m-1: no\n  spec.arch: bad (not "x")\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: x\nspec: [", ", line 2: "),
        ("- 1", "must be an object with kind, metadata and spec"),
        ("kind: Machine\nkind: Machine\n", ", line 2: the key 'kind' is given twice"),
        ("kind: Provision\nmetadata: {name: x}\n", "kind must be Machine, Template or Webhook, not 'Provision'"),
        ("kind: Template\n", "metadata.name is missing"),
        ("", "the files hold no document"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    ],
)
def test_a_file_that_cannot_be_applied_changes_nothing(
    swarm: Any, at_swarm: Any, files: Path, text: str, message: str
) -> None:
    files.write_text(text)

    done = at_swarm("apply", "-f", str(files))

    assert done.code == 2
    assert message in done.err
    assert swarm.requests == []


def test_a_missing_file_is_told(at_swarm: Any, tmp_path: Path) -> None:
    done = at_swarm("apply", "-f", str(tmp_path / "none.yaml"))

    assert (done.code, done.err) == (2, f"dragonfly: cannot read {tmp_path}/none.yaml: No such file or directory\n")


def test_cancel_by_provision_and_by_machine(swarm: Any, at_swarm: Any) -> None:
    ulid = "01JD4QZV3E5T6Y7K8M9N0P1Q2R"
    swarm.provision(ulid, "m-1")
    swarm.machine("m-1", "Provisioning", activeProvision={"name": ulid, "template": "t"})

    assert at_swarm("cancel", ulid).out == f"provision {ulid}: cancelled\n"
    assert at_swarm("cancel", "m-1", "--reason", "wrong one").out == f"provision {ulid}: cancelled\n"
    assert swarm.bodies("POST", f"/api/v1/provisions/{ulid}/cancel") == [{}, {"reason": "wrong one"}]


def test_cancel_of_an_idle_machine_is_refused(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")

    assert at_swarm("cancel", "m-1") == (4, "", "dragonfly: nothing is being provisioned on m-1\n")
    assert at_swarm("cancel", "nope").code == 3


def test_lock_and_unlock(swarm: Any, at_swarm: Any) -> None:
    machine = swarm.machine("m-1")
    swarm.reply("POST /api/v1/machines/m-1/lock", 200, {})
    swarm.reply("POST /api/v1/machines/m-1/unlock", 200, {})

    assert at_swarm("unlock", "m-1").out == "machine m-1: was not locked\n"
    machine["spec"]["locked"] = {"reason": "disk", "by": "ada", "at": "2026-01-01T00:00:00Z"}
    assert at_swarm("lock", "m-1", "--reason", "disk").out == "machine m-1: locked\n"
    assert at_swarm("unlock", "m-1").out == "machine m-1: unlocked\n"
    assert swarm.bodies("POST", "/api/v1/machines/m-1/lock") == [{"reason": "disk"}]
    assert at_swarm("lock", "m-1").code == 2


@pytest.mark.usefixtures("impatient")
def test_unlock_does_not_take_an_old_copys_word_that_nobody_has_locked(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.stale = "12.5"
    swarm.refuse("POST /api/v1/machines/m-1/unlock", 503, "store-unavailable", "etcd does not answer.")

    assert at_swarm("unlock", "m-1").code == 5


def test_delete_asks_and_without_anybody_to_ask_does_nothing(
    swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.machine("m-1")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    done = at_swarm("delete", "m", "m-1")

    assert done.code == 2
    assert "say --yes" in done.err
    assert swarm.requests == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, False), ("n\n", 130, True), ("\n", 130, True)])
def test_delete_goes_by_the_answer(
    swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, *, left: bool
) -> None:
    swarm.machine("m-1")
    monkeypatch.setattr("sys.stdin", Terminal(answer))

    assert at_swarm("delete", "m", "m-1").code == code
    assert ("m-1" in swarm.objects["machines"]) is left


def test_delete_goes_on_after_a_missing_one(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.machine("m-3")

    done = at_swarm("delete", "machine/m-1", "m/m-2", "m-3", "--yes")

    assert done == (3, "machine m-1: deleted\nmachine m-3: deleted\n", "dragonfly: there is no m-2\n")


def test_deleting_a_template_tells_what_it_is_used_for(
    swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.add("templates", {"kind": "Template", "metadata": {"name": "ubuntu-2404"}, "spec": {}})
    swarm.machine("m-1", "Deployed", os={"template": "ubuntu-2404"})
    swarm.machine("m-2", "Deployed", os={"template": "debian"})
    swarm.provision("01JD", "m-3", phase="Running")
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))

    done = at_swarm("delete", "template", "ubuntu-2404")

    assert done.code == 130
    assert done.err.splitlines()[:2] == [
        "dragonfly: template ubuntu-2404 is being installed on m-3, which goes on",
        "dragonfly: template ubuntu-2404 is installed on m-1, which stays so",
    ]
    asked = next(request for request in swarm.requests if request.path == "/api/v1/provisions")
    assert asked.query["template"] == "ubuntu-2404"
    assert "ubuntu-2404" in swarm.objects["templates"]


def test_delete_is_conditional_on_what_was_read(swarm: Any, at_swarm: Any) -> None:
    revision = swarm.machine("m-1")["metadata"]["revision"]

    done = at_swarm("delete", "machine", "m-1", "--yes", "--force")

    assert done.out == "machine m-1: deleted\n"
    request = swarm.requests[-1]
    assert (request.headers["if-match"], request.query) == (f'"{revision}"', {"force": "true"})


def test_only_machines_can_be_forgotten(swarm: Any, at_swarm: Any) -> None:
    assert at_swarm("delete", "t", "debian", "--yes", "--force").code == 2
    assert swarm.requests == []


def test_a_deletion_whose_answer_was_lost_is_done(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.faults.append(None)
    swarm.lose(carried_out=True)

    done = at_swarm("delete", "m", "m-1", "-y")

    assert (done.code, done.out) == (0, "machine m-1: deleted\n")


def test_a_deletion_that_the_cluster_still_carries_out_is_told(swarm: Any, at_swarm: Any) -> None:
    machine = swarm.machine("m-1", "Deleting")
    swarm.reply("DELETE /api/v1/machines/m-1", 202, machine)

    assert at_swarm("delete", "m", "m-1", "-y").out == "machine m-1: is being deleted\n"


def test_provisions_are_history_and_cannot_be_deleted(at_swarm: Any) -> None:
    assert at_swarm("delete", "p", "x", "-y").code == 2
