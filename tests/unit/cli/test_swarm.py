import json
import os
from pathlib import Path
from typing import Any

import pytest

from dragonfly.settings import Settings

MEMBERS = [
    {"id": "a", "site": "fra", "version": "0.1.0", "address": "10.0.0.1:3000", "started": "2026-01-01T00:00:00Z"},
    {"id": "b", "version": "0.1.0", "address": "10.0.0.2:3000", "started": "2026-01-01T00:00:00Z"},
]
CLAIMS = [
    {"cluster": "local", "shard": 0, "owner": "a", "epoch": 7},
    {"cluster": "local", "shard": 2, "owner": "a", "epoch": 8},
    {"cluster": "local", "shard": 1, "owner": "b", "epoch": 9},
]


def test_members_with_what_they_drive(swarm: Any, at_swarm: Any) -> None:
    swarm.reply("GET /api/v1/swarm", 200, {"members": MEMBERS, "claims": CLAIMS, "unowned": []})

    done = at_swarm("swarm")

    assert done.code == 0
    rows = [line.split() for line in done.lines]
    assert rows[0] == ["REPLICA", "SITE", "VERSION", "ADDRESS", "AGE", "HEARD", "SHARDS"]
    assert rows[1][-2:] == ["local", "0,2"]
    assert rows[2][:2] == ["b", "-"]
    assert rows[2][-2:] == ["local", "1"]


@pytest.mark.parametrize("unowned", [[{"cluster": "local", "shard": 3}], ["local/3"]])
def test_a_shard_without_owner_is_told_and_is_exit_code_1(swarm: Any, at_swarm: Any, unowned: list[Any]) -> None:
    swarm.reply("GET /api/v1/swarm", 200, {"members": MEMBERS, "claims": CLAIMS, "unowned": unowned})

    done = at_swarm("swarm")

    assert done.code == 1
    assert done.lines[-1] == "Without owner: local/3"


@pytest.mark.parametrize("command", ["swarm", "status"])
@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"installed": False, "reason": "Forbidden", "message": "Grant it."}, ["Cluster local: Grant it."]),
        ({"installed": True, "reason": "Restored", "message": "It was set back."}, []),
        (None, []),
    ],
)
def test_a_missing_fence_is_told_and_is_no_failure(
    swarm: Any, at_swarm: Any, command: str, policy: dict[str, Any] | None, told: list[str]
) -> None:
    cluster = {"name": "local", "reachable": True, "shards": 3, "unowned": 0, "admissionPolicy": policy}
    document = {"members": MEMBERS, "claims": CLAIMS, "unowned": [], "clusters": [cluster]}
    swarm.reply("GET /readyz", 200, {"checks": {}})
    swarm.reply("GET /api/v1/swarm", 200, document)

    done = at_swarm(command)

    assert done.code == 0
    assert [line.strip() for line in done.lines if "Cluster local" in line] == told


def test_for_scripts_as_the_api_gave_it(swarm: Any, at_swarm: Any) -> None:
    document = {"members": MEMBERS, "claims": CLAIMS, "unowned": [], "new": {"field": 1}}
    swarm.reply("GET /api/v1/swarm", 200, document)

    assert json.loads(at_swarm("swarm", "-o", "json").out) == document


def test_a_swarm_that_says_little_is_shown_all_the_same(swarm: Any, at_swarm: Any) -> None:
    swarm.reply("GET /api/v1/swarm", 200, {})

    assert at_swarm("swarm").code == 0


def test_status_of_a_swarm_that_is_well(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.machine("m-2", "Deployed")
    swarm.machine("m-3", "Deployed")
    checks = {"etcd": {"ok": True}, "mirror": {"ok": True, "message": "revision 7"}}
    swarm.reply("GET /readyz", 200, {"checks": checks})
    observer = {"id": "laptop", "version": "0.2.0", "observes": True}
    swarm.reply("GET /api/v1/swarm", 200, {"members": [*MEMBERS, observer], "claims": CLAIMS, "unowned": []})

    done = at_swarm("status")

    assert done.code == 0
    said = dict(line.split(":", 1) for line in done.lines)
    said = {title.strip(): value.strip() for title, value in said.items()}
    assert (said["Ready"], said["Answered by"], said["etcd"], said["mirror"]) == ("yes", "b", "ok", "ok: revision 7")
    assert (said["Replicas"], said["Observers"]) == ("2 of version 0.1.0", "1 of version 0.2.0")
    assert said["Shards"] == "3 driven, 0 without owner"
    assert (said["Available"], said["Deployed"]) == ("1 machine", "2 machines")


@pytest.mark.parametrize(("ready", "code"), [(200, 0), (503, 1)])
def test_status_for_scripts_is_what_the_replica_said(swarm: Any, at_swarm: Any, ready: int, code: int) -> None:
    swarm.machine("m-1", "Deployed")
    checks = {"etcd": {"ok": ready == 200}}
    whole = {"members": MEMBERS, "claims": CLAIMS, "unowned": []}
    mode = {"mode": "pod", "why": [], "etcd": {"source": "settings", "reachable": True}}
    swarm.reply("GET /readyz", ready, {"checks": checks})
    swarm.reply("GET /api/v1/swarm", 200, whole)
    swarm.reply("GET /api/v1/mode", 200, mode)

    done = at_swarm("status", "-o", "json")

    assert done.code == code
    assert json.loads(done.out) == {
        "kind": "Status",
        "ok": code == 0,
        "server": swarm.url,
        "replica": "b",
        "ready": code == 0,
        "checks": checks,
        "mode": mode,
        "swarm": whole,
        "machines": {"Deployed": 1},
    }


@pytest.mark.usefixtures("impatient")
def test_status_for_scripts_of_a_replica_that_cannot_say_it_all(swarm: Any, at_swarm: Any) -> None:
    swarm.reply("GET /readyz", 404, {"type": "/problems/not-found"})
    swarm.reply("GET /api/v1/version", 200, {"version": "0.1.0"}, Dragonfly_Stale="3.2")
    swarm.refuse("GET /api/v1/swarm", 503, "unavailable", "the state is not here yet")

    done = at_swarm("status", "-o", "json")

    document = json.loads(done.out)
    assert done.code == 1
    assert [document[key] for key in ("ok", "ready", "checks", "mode", "swarm")] == [False, False, None, None, None]
    assert "the state is not here yet" in done.err


@pytest.mark.parametrize(
    "checks",
    [
        {"etcd": {"ok": False, "message": "no leader"}},
        [{"name": "etcd", "status": "fail", "reason": "no leader"}],
    ],
)
def test_status_of_a_swarm_that_is_not(swarm: Any, at_swarm: Any, checks: Any) -> None:
    swarm.reply("GET /readyz", 503, {"checks": checks})
    swarm.reply("GET /api/v1/swarm", 200, {"members": MEMBERS, "claims": CLAIMS, "unowned": []})

    done = at_swarm("status")

    assert done.code == 1
    assert "etcd:        not ok: no leader" in done.out


@pytest.mark.parametrize(
    ("headers", "code", "current"),
    [({}, 0, "yes"), ({"Dragonfly-Stale": "3.2"}, 1, "no, as it was 3.2 s ago: etcd is away")],
)
def test_status_through_a_load_balancer_that_keeps_the_checks_to_itself(
    swarm: Any, at_swarm: Any, headers: dict[str, str], code: int, current: str
) -> None:
    swarm.reply("GET /readyz", 404, {"type": "/problems/not-found"})
    swarm.reply("GET /api/v1/version", 200, {"version": "0.1.0", "replica": "b"}, **headers)
    swarm.reply("GET /api/v1/swarm", 200, {"members": MEMBERS, "claims": CLAIMS, "unowned": []})

    done = at_swarm("status")

    assert done.code == code
    assert "Answered by:   b" in done.lines
    assert f"Current:       {current}" in done.lines
    assert "Shards:        3 driven, 0 without owner" in done.lines


def test_a_cluster_that_nobody_reaches_is_told_and_is_exit_code_1(swarm: Any, at_swarm: Any) -> None:
    clusters = [
        {"name": "ber", "reachable": True, "shards": 8, "unowned": 0},
        {"name": "fra", "reachable": False, "since": "2026-01-01T00:00:00.123456Z", "shards": 8, "unowned": 0},
    ]
    swarm.reply("GET /readyz", 200, {})
    swarm.reply("GET /api/v1/swarm", 200, {"members": MEMBERS, "claims": CLAIMS, "unowned": [], "clusters": clusters})

    status, members = at_swarm("status"), at_swarm("swarm")

    assert (status.code, members.code) == (1, 1)
    assert "Clusters:      ber: reachable, 8 shards" in status.lines
    (bad,) = [line.strip() for line in status.lines if "fra" in line and "not" in line]
    assert bad.startswith("fra: not reachable since 2026-01-01T00:00:00Z (")
    assert members.lines[-1] == "Cluster fra is not reachable since 2026-01-01T00:00:00Z"


def test_status_where_nobody_answers(at_swarm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGONFLY_SERVER", "http://127.0.0.1:1")

    done = at_swarm("status")

    assert done.code == 5
    assert done.err.startswith("dragonfly: http://127.0.0.1:1 does not answer (connection refused)\n")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What a replica would have been started with; it ends with code 7."""
    settings: list[Settings] = []

    def run(given: Settings) -> int:
        settings.append(given)
        return 7

    monkeypatch.setattr("dragonfly.replica.run", run)
    for name in [name for name in os.environ if name.startswith("DRAGONFLY_") or name == "KUBECONFIG"]:
        monkeypatch.delenv(name)
    return settings


def test_a_server_is_told_by_flags_variables_and_a_file(
    dragonfly: Any, started: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "d.toml"
    file.write_text('site = "file"\nshards = 4\n')
    monkeypatch.setenv("DRAGONFLY_SITE", "variable")
    monkeypatch.setenv("DRAGONFLY_ETCD_ENDPOINTS", "http://10.0.0.1:2379")
    monkeypatch.setenv("DRAGONFLY_CONFIG", str(file))

    assert dragonfly("server", "--replica", "r-1", "--lease-ttl", "5").code == 7

    (settings,) = started
    assert (settings.replica, settings.site, settings.shards, settings.lease_ttl) == ("r-1", "variable", 4, 5)


@pytest.mark.parametrize(
    ("said", "observes"),
    [((), True), (("--observe", "no"), False), (("--observe",), True), (("--observe", "--shards", "4"), True)],
)
def test_a_server_is_told_to_observe_by_a_flag_alone(
    dragonfly: Any, started: list[Settings], monkeypatch: pytest.MonkeyPatch, said: tuple[str, ...], observes: bool
) -> None:
    monkeypatch.setenv("DRAGONFLY_ETCD_ENDPOINTS", "http://10.0.0.1:2379")
    monkeypatch.setenv("DRAGONFLY_OBSERVE", "yes")

    assert dragonfly("server", *said).code == 7

    assert [settings.observe for settings in started] == [observes]


def test_a_server_with_wrong_settings_does_not_start_and_tells_all_of_them(
    dragonfly: Any, started: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGONFLY_LEASE_TTL", "1")

    done = dragonfly("server", "--listen", "3000")

    assert (done.code, started) == (2, [])
    assert done.err == (
        "dragonfly: these settings cannot be used:\n"
        "  --listen: '3000' must be HOST:PORT, such as 0.0.0.0:3000 or [::]:3000, with a port of 1 to 65535\n"
        "  DRAGONFLY_LEASE_TTL: '1' must be a whole number of seconds of 2 to 60\n"
    )


def test_a_file_that_is_not_there_is_told(dragonfly: Any, started: list[Settings], tmp_path: Path) -> None:
    done = dragonfly("server", "--config", str(tmp_path / "d.yaml"))

    assert (done.code, started) == (2, [])
    assert "No such file or directory" in done.err


def test_help_of_the_server_has_every_variable_and_default(dragonfly: Any) -> None:
    from dragonfly.settings import SETTINGS

    shown = " ".join(dragonfly("server", "--help").out.split())

    for setting in SETTINGS:
        default = f"; default: {setting.default}" if setting.default else ""
        assert setting.flag in shown
        assert f"[env: {setting.env}{default}]" in shown


def test_the_demo_gets_its_options(dragonfly: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dragonfly.sandbox.demo import DemoFailed, DemoOptions

    seen: list[DemoOptions] = []
    monkeypatch.setattr("dragonfly.sandbox.demo.run_demo", lambda options, _console: seen.append(options))

    assert dragonfly("demo").code == 0
    done = dragonfly("demo", "--machines", "5", "--replicas", "2", "--seed", "9", "--port", "3001", "--no-simulate")
    assert done.code == 0
    assert dragonfly("demo", "--keep", str(tmp_path), "--no-restart", "--fail-rate", "0").code == 0

    assert seen == [
        DemoOptions(),
        DemoOptions(machines=5, replicas=2, seed=9, port=3001, simulate=False),
        DemoOptions(keep=tmp_path, restart=False, fail_rate=0),
    ]

    def fail(_options: DemoOptions, _console: object) -> None:
        raise DemoFailed("port 3000 is taken by nginx. Choose another with --port")

    monkeypatch.setattr("dragonfly.sandbox.demo.run_demo", fail)
    assert dragonfly("demo").err == (
        "dragonfly: the demo cannot run: port 3000 is taken by nginx. Choose another with --port\n"
    )


def _told(**more: Any) -> dict[str, Any]:
    return {"members": MEMBERS, "claims": CLAIMS, "unowned": [], **more}


def test_what_is_wrong_is_told_below_the_table_with_its_reason(swarm: Any, at_swarm: Any) -> None:
    since = "2026-01-01T00:00:00.5Z"
    silent = {**MEMBERS[1], "keepaliveAge": 3.0}
    lost = {"cluster": "fra", "since": since, "reason": "hardware: timed out"}
    shard = {"cluster": "fra", "since": since, "reason": "no live replica reaches cluster fra"}
    swarm.reply(
        "GET /api/v1/swarm",
        200,
        _told(
            members=[{**MEMBERS[0], "unreachable": [lost]}, silent],
            unowned=[{**shard, "shard": 0}, {**shard, "shard": 1}],
            drains=[{"cluster": "local", "shard": 1, "owner": "b", "askedBy": "a", "epoch": 9}],
            clusters=[
                {"name": "fra", "reachable": False, "since": since, "reason": "timed out", "shards": 2, "unowned": 2}
            ],
            etcd={"state": "degraded", "since": since, "reason": "http://10.0.0.9:2379: no answer in time"},
            self={"id": "a", "state": "acting", "since": since, "reason": "it drives 2 shards"},
        ),
    )

    done = at_swarm("swarm")

    assert done.code == 1
    assert " 3s ago " in done.lines[2]
    assert done.lines[3:7] == [
        "",
        "CLUSTER   SITES   REACHED FROM   NOT FROM    DRIVEN",
        "fra       -       nobody         b; fra: a   0/2",
        "",
    ]
    assert done.lines[7:] == [
        "Replica a, which answers, is acting since 2026-01-01T00:00:00Z: it drives 2 shards",
        "Replica a asks b to give up local/1",
        "etcd is degraded since 2026-01-01T00:00:00Z: http://10.0.0.9:2379: no answer in time",
        "Replica a does not reach cluster fra since 2026-01-01T00:00:00Z: hardware: timed out",
        "Cluster fra is not reachable since 2026-01-01T00:00:00Z: timed out",
        "Without owner: fra/0, fra/1 since 2026-01-01T00:00:00Z: no live replica reaches cluster fra",
    ]


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("degraded", 0), ("full", 1), ("unreachable", 1)])
def test_an_etcd_that_takes_no_writes_is_exit_code_1(swarm: Any, at_swarm: Any, state: str, code: int) -> None:
    etcd = {"state": state, "since": "2026-01-01T00:00:00Z", "reason": "why" if code else ""}
    swarm.reply("GET /readyz", 200, {})
    swarm.reply("GET /api/v1/swarm", 200, _told(etcd=etcd))

    assert (at_swarm("swarm").code, at_swarm("status").code) == (code, code)
    assert f"etcd:          {state}{': why' if code else ''}" in at_swarm("status").lines


def test_status_does_not_say_that_shards_are_driven_if_etcd_is_not_heard(swarm: Any, at_swarm: Any) -> None:
    swarm.reply("GET /readyz", 200, {})
    swarm.reply("GET /api/v1/swarm", 200, _told(stale=12.5))

    assert "Shards:        3 driven, 0 without owner, when etcd was last heard" in at_swarm("status").lines


def test_answers_that_may_be_out_of_date_are_told_once_on_standard_error(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.stale = "12.5"

    done = at_swarm("get", "machines", "m-1", "m-2", "-o", "name")

    assert done.out == "machine/m-1\n"
    warning = "dragonfly: replica b has not heard from etcd for 12.5 s: this may be out of date\n"
    assert done.err.count("out of date") == 1
    assert done.err.startswith(warning)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (
            {"mode": "pod", "why": [{"lookedAt": "DRAGONFLY_INSTALLED", "found": "set", "decides": True}]},
            "pod (DRAGONFLY_INSTALLED set)",
        ),
        (
            {"mode": "not-installed", "why": [], "cluster": {"reason": "/k: is no valid YAML"}},
            "not-installed (/k: is no valid YAML)",
        ),
        ({"mode": "not-installed"}, "not-installed"),
    ],
)
def test_status_tells_the_mode_of_the_replica_that_answers(
    swarm: Any, at_swarm: Any, document: dict[str, Any], told: str
) -> None:
    swarm.reply("GET /readyz", 200, {"checks": {}})
    swarm.reply("GET /api/v1/swarm", 200, {"members": MEMBERS, "claims": CLAIMS, "unowned": []})
    swarm.reply("GET /api/v1/mode", 200, document)

    assert f"Mode:          {told}" in at_swarm("status").lines


def test_status_of_a_replica_that_knows_no_modes_is_whole_all_the_same(swarm: Any, at_swarm: Any) -> None:
    swarm.reply("GET /readyz", 200, {"checks": {}})
    swarm.reply("GET /api/v1/swarm", 200, {"members": MEMBERS, "claims": CLAIMS, "unowned": []})
    swarm.refuse("GET /api/v1/mode", 404, "not-found", "There is no such thing.")

    done = at_swarm("status")

    assert (done.code, "Mode" in done.out) == (0, False)


def test_from_where_a_cluster_is_reached_is_told_and_only_its_own_sites_are_asked_why_not(
    swarm: Any, at_swarm: Any
) -> None:
    def member(name: str, site: str, *lost: str, **more: Any) -> dict[str, Any]:
        unreachable = [{"cluster": cluster, "since": "2026-01-01T00:00:00Z", "reason": "refused"} for cluster in lost]
        reached = [] if more.get("observes") else sorted({"fra", "local"} - set(lost))
        return {"id": name, "site": site, "clusters": reached, "unreachable": unreachable, **more}

    members = [
        member("a", "fra1"),
        member("b", "fra1", "fra"),
        member("c", "ber1", "fra", "local"),
        member("laptop", "home", observes=True),
    ]
    clusters = [
        {"name": "fra", "reachable": True, "sites": ["fra1"], "shards": 8, "unowned": 0},
        {"name": "local", "reachable": True, "shards": 8, "unowned": 1},
    ]
    swarm.reply("GET /api/v1/swarm", 200, _told(members=members, clusters=clusters))

    lines = at_swarm("swarm").lines

    assert lines[4].split()[-1] == "observes"
    assert lines[6:9] == [
        "CLUSTER   SITES   REACHED FROM   NOT FROM           DRIVEN",
        "fra       fra1    fra1: a        ber1: c; fra1: b   8/8",
        "local     -       fra1: a,b      ber1: c            7/8",
    ]
    assert [line for line in lines if "does not reach" in line] == [
        "Replica b does not reach cluster fra since 2026-01-01T00:00:00Z: refused",
        "Replica c does not reach cluster local since 2026-01-01T00:00:00Z: refused",
    ]
