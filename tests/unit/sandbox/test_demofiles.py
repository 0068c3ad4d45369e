import stat
from pathlib import Path

import msgspec
import pytest

from dragonfly.sandbox.demofiles import DemoFile, DemoRuns, Home, Listed, ReplicaEntry

CONTENT = DemoFile(
    url="http://127.0.0.1:3000",
    token_file="/token",
    kubeconfig="/kubeconfig",
    etcd=("https://127.0.0.1:2379",),
    tink_server="127.0.0.1:42113",
    audit_log="/audit.log",
    replicas=(ReplicaEntry("a", 1, "http://127.0.0.1:3001"),),
    processes=(Listed("etcd-0", 2),),
)


def test_what_is_published_is_readable_by_its_owner_only_and_goes_at_the_end(tmp_path: Path) -> None:
    with Home(tmp_path / "demo", keep=False) as home:
        home.publish(CONTENT)
        home.publish(msgspec.structs.replace(CONTENT, url="http://127.0.0.1:4000"))

        assert msgspec.json.decode(home.file.read_bytes()) == {
            "url": "http://127.0.0.1:4000",
            "tokenFile": "/token",
            "kubeconfig": "/kubeconfig",
            "etcd": ["https://127.0.0.1:2379"],
            "tinkServer": "127.0.0.1:42113",
            "auditLog": "/audit.log",
            "replicas": [{"id": "a", "pid": 1, "url": "http://127.0.0.1:3001"}],
            "processes": [{"name": "etcd-0", "pid": 2}],
        }
        assert stat.S_IMODE(home.file.stat().st_mode) == 0o600
        assert sorted(path.name for path in home.file.parent.iterdir()) == ["demo.json", "demo.lock", "state"]
    assert not (tmp_path / "demo").exists()


def test_a_second_demo_in_the_same_place_is_told_of_the_first(tmp_path: Path) -> None:
    with Home(tmp_path / "demo", keep=False) as home:
        with pytest.raises(DemoRuns, match=r"pid \d+, at an address that it has not got yet"):
            Home(tmp_path / "demo", keep=False).__enter__()
        home.publish(CONTENT)
        with pytest.raises(DemoRuns, match=r"at http://127\.0\.0\.1:3000"):
            Home(tmp_path / "demo", keep=False).__enter__()

        assert home.file.exists(), "the first is not disturbed"


def test_what_a_killed_demo_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "demo" / "state" / "etcd").mkdir(parents=True)
    (tmp_path / "demo" / "demo.json").write_text("{}")

    with Home(tmp_path / "demo", keep=False) as home:
        assert not home.file.exists()
        assert list(home.state.iterdir()) == []


def test_what_was_kept_is_never_overwritten_and_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with Home(tmp_path, keep=True) as home:
        (home.state / "log").write_text("kept")

    assert (tmp_path / "state" / "log").read_text() == "kept"
    with pytest.raises(DemoRuns, match="holds what another demo kept"):
        Home(tmp_path, keep=True).__enter__()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with Home(tmp_path, keep=False):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"
