"""A bundle from its downloads to what preflight says of it, from a server on loopback."""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dragonfly.cli import bundle as cli_bundle
from dragonfly.cli.errors import Exit
from dragonfly.cli.main import run
from dragonfly.install import bundle, host_survey
from dragonfly.install.execution import StepFailed, Unreachable
from dragonfly.install.host import Host
from dragonfly.install.host_facts import HostFacts
from dragonfly.install.options import K3S_VERSION, Options
from dragonfly.install.preflight import Check, errors, preflight
from dragonfly.install.registry import Registry
from tests.unit.install.served import CHART_TYPE, Served, packed_chart

RELEASE = f"/releases/{K3S_VERSION.replace('+', '%2B')}"
K3S = b"k3s" * 5000
ARCHIVES = (
    "dragonfly-0.1.0.image.tar",
    "etcd-v3.7.1.tar",
    "k3s-airgap-images-amd64.tar.zst",
    "kube-vip-v1.0.0.tar",
    "relay-init-v0.1.0.tar",
    "tinkerbell-v0.25.0.tar",
)


class Internet:
    """All that a bundle is made from, and a replica's image."""

    def __init__(self, served: Served, directory: Path) -> None:
        self.served = served
        self.directory = directory / "bundle"
        self.archive = directory / "dragonfly-0.1.0.image.tar"
        self.archive.write_bytes(b"a replica")
        self._serve("amd64", {"k3s": K3S, "k3s-airgap-images-amd64.tar.zst": b"pause and the like"})
        self._serve("arm64", {"k3s-arm64": b"arm", "k3s-airgap-images-arm64.tar.zst": b"pause and the like"})
        self.chart = packed_chart()
        served.image("chart", (self.chart, CHART_TYPE))
        served.by_name["tinkerbell/charts/tinkerbell:v0.25.0"] = served.tags.pop("chart")
        served.image("plain", (b"layer", "application/vnd.oci.image.layer.v1.tar"))
        for tag in ("v0.25.0", "v0.1.0", "v1.0.0", "v3.7.1"):
            served.index(tag, "amd64", of="plain")

    def _serve(self, architecture: str, files: dict[str, bytes]) -> None:
        sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files, reverse=True))
        for name, content in (*files.items(), (f"sha256sum-{architecture}.txt", sums.encode())):
            self.served.files[f"{RELEASE}/{name}"] = content

    def make(self, directory: Path, wanted: bundle.Wanted, registry: object = None, say: object = None) -> None:
        hosts = dict.fromkeys(("ghcr.io", "gcr.io"), self.served.host)
        wanted = wanted._replace(k3s_releases=f"http://{self.served.host}/releases")
        bundle.make(directory, wanted, Registry(scheme="http", hosts=hosts), lambda text: None)

    def command(self, *arguments: str) -> int:
        return run(["bundle", str(self.directory), "--image-archive", str(self.archive), *arguments])


@pytest.fixture
def internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    with Served() as served:
        internet = Internet(served, tmp_path)
        monkeypatch.setattr(cli_bundle, "make", internet.make)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        yield internet


def test_what_the_command_makes_is_what_an_installation_takes(
    internet: Internet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert internet.command() == Exit.OK

    assert f"{internet.directory} has all that an installation on amd64 needs." in capsys.readouterr().out
    assert host_survey.image_files(str(internet.directory)) == ARCHIVES
    assert (internet.directory / "k3s").read_bytes() == K3S
    assert (internet.directory / "k3s").stat().st_mode & 0o777 == 0o755
    assert (internet.directory / "tinkerbell.tgz").read_bytes() == internet.chart
    with tarfile.open(internet.directory / "images/etcd-v3.7.1.tar") as archive:
        (manifest,) = json.loads(archive.extractfile("index.json").read())["manifests"]  # type: ignore[union-attr] # None for a directory alone
    assert manifest["annotations"]["io.containerd.image.name"] == "gcr.io/etcd-development/etcd:v3.7.1"
    assert not errors(checks(internet.directory))


def test_a_bundle_whose_making_ended_early_is_none(internet: Internet, capsys: pytest.CaptureFixture[str]) -> None:
    assert internet.command() == Exit.OK
    del internet.served.tags["v3.7.1"]

    assert internet.command() == Exit.UNREACHABLE

    assert "the bundle is not whole: gcr.io/etcd-development/etcd:v3.7.1" in capsys.readouterr().err
    assert f"{internet.directory} has no SHA256SUMS" in [check.found for check in errors(checks(internet.directory))]


def test_a_bundle_that_was_altered_on_its_way_is_refused(internet: Internet) -> None:
    internet.command()
    (internet.directory / "images/etcd-v3.7.1.tar").write_bytes(b"other")

    (error,) = errors(checks(internet.directory))
    assert "images/etcd-v3.7.1.tar is not what SHA256SUMS says" in error.found


def test_a_bundle_for_other_hosts_is_refused_before_anything_is_changed(internet: Internet) -> None:
    """k3s would not start there, once files were changed."""
    assert internet.command() == Exit.OK

    assert not errors(checks(internet.directory, "x86_64"))
    (error,) = errors(checks(internet.directory, "aarch64"))
    assert error.found == f"{internet.directory} is for hosts with amd64, and this one has arm64"
    assert error.remedy == "Make one for it: dragonfly bundle DIR --arch arm64."


def test_what_a_bundle_says_of_its_hosts_is_vouched_for(internet: Internet) -> None:
    internet.command()
    (internet.directory / "architecture").write_text("arm64\n")

    assert f"{internet.directory}/architecture is not what SHA256SUMS says" in [
        error.found for error in errors(checks(internet.directory, "aarch64"))
    ]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_bundle_of_an_older_version_says_nothing_of_its_hosts(internet: Internet, machine: str) -> None:
    internet.command()
    (internet.directory / "architecture").unlink()
    bundle.seal(internet.directory)

    assert not errors(checks(internet.directory, machine))


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
@pytest.mark.parametrize(("said", "made"), [((), "arm64"), (("--arch", "amd64"), "amd64")])
def test_a_bundle_is_for_hosts_like_this_computer_unless_said(
    internet: Internet, monkeypatch: pytest.MonkeyPatch, machine: str, said: tuple[str, ...], made: str
) -> None:
    """macOS and Linux have two names for one architecture."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for tag in ("v0.25.0", "v0.1.0", "v1.0.0", "v3.7.1"):
        internet.served.index(tag, made, of="plain")

    assert internet.command(*said) == Exit.OK

    assert (internet.directory / "architecture").read_text() == f"{made}\n"
    assert (internet.directory / "k3s").read_bytes() == {"amd64": K3S, "arm64": b"arm"}[made]


def test_a_computer_like_no_host_is_asked_for_which_the_bundle_is(
    internet: Internet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")

    assert internet.command() == Exit.USAGE

    assert "--arch amd64 or --arch arm64" in capsys.readouterr().err
    assert not internet.directory.exists()
    assert internet.command("--arch", "amd64") == Exit.OK


def test_a_mistake_is_told_before_anything_is_fetched(internet: Internet, capsys: pytest.CaptureFixture[str]) -> None:
    assert internet.command("--k3s-version", "nonsense") == Exit.USAGE
    assert "--k3s-version: must be a version such as v1.2.3, not 'nonsense'" in capsys.readouterr().err
    internet.archive.unlink()
    assert internet.command() == Exit.USAGE
    assert f"{internet.archive} cannot be read; nothing was fetched" in capsys.readouterr().err

    assert not internet.directory.exists()


def test_without_internet_it_does_not_send_to_a_bundle(internet: Internet, capsys: pytest.CaptureFixture[str]) -> None:
    internet.served.server.shutdown()
    internet.served.server.server_close()

    assert internet.command() == Exit.UNREACHABLE

    err = capsys.readouterr().err
    assert "A bundle is made where there is internet" in err
    assert "--airgap" not in err


def test_a_version_that_is_not_there_is_told_as_such(internet: Internet, capsys: pytest.CaptureFixture[str]) -> None:
    assert internet.command("--k3s-version", "v9.9.9+k3s1") == Exit.UNREACHABLE

    err = capsys.readouterr().err
    assert "v9.9.9%2Bk3s1/sha256sum-amd64.txt: the server says 404" in err
    assert "Is there such a version?" in err


def test_a_place_that_cannot_be_written_is_named(internet: Internet, capsys: pytest.CaptureFixture[str]) -> None:
    internet.directory = internet.archive / "bundle"

    assert internet.command() == Exit.USAGE

    assert f"{internet.archive}/bundle/images cannot be written: Not a directory" in capsys.readouterr().err


def test_a_download_is_there_once_it_is_what_its_checksum_says(internet: Internet, tmp_path: Path) -> None:
    host = Host(tmp_path, scheme="http")

    digest = downloaded(internet, host)

    assert digest == hashlib.sha256(K3S).hexdigest() == host.sum("/bin/k3s")
    assert host.has("/bin/k3s", K3S, 0o755)


def test_a_download_that_is_another_leaves_the_former_one(internet: Internet, tmp_path: Path) -> None:
    host = Host(tmp_path, scheme="http")
    host.write("/bin/k3s", b"former", 0o755)
    internet.served.files[f"{RELEASE}/k3s"] = b"other"

    with pytest.raises(StepFailed, match=r"its SHA-256 is \w+, and should be"):
        downloaded(internet, host)

    assert host.has("/bin/k3s", b"former", 0o755)
    assert not host.is_torn("/bin/k3s")


@pytest.mark.parametrize("name", ["k3s", "sha256sum-amd64.txt"])
def test_a_download_that_is_cut_off_leaves_the_former_one_and_can_be_said_again(
    internet: Internet, tmp_path: Path, name: str
) -> None:
    host = Host(tmp_path, scheme="http")
    host.write("/bin/k3s", b"former", 0o755)
    internet.served.cut_off.add(f"{RELEASE}/{name}")

    with pytest.raises(StepFailed) as caught:
        downloaded(internet, host)

    assert caught.value.remedy == "Try again."
    assert host.has("/bin/k3s", b"former", 0o755)
    internet.served.cut_off.clear()
    downloaded(internet, host)
    assert host.has("/bin/k3s", K3S, 0o755)


def test_a_host_without_internet_is_sent_to_a_bundle(internet: Internet, tmp_path: Path) -> None:
    internet.served.server.shutdown()
    internet.served.server.server_close()

    with pytest.raises(Unreachable) as caught:
        downloaded(internet, Host(tmp_path, scheme="http"))

    assert "--airgap DIR" in caught.value.remedy


def downloaded(internet: Internet, host: Host) -> str:
    above = f"http://{internet.served.host}{RELEASE}"
    return host.download(f"{above}/k3s", f"{above}/sha256sum-amd64.txt", "/bin/k3s", 0o755, lambda text: None)


def checks(directory: Path, machine: str = "x86_64") -> tuple[Check, ...]:
    facts = HostFacts(address="10.0.0.1", network="10.0.0.0/24", interface="eth0", architecture=machine)
    options = Options(airgap=str(directory), etcd="dedicated")
    return preflight(options, msgspec.structs.replace(facts, airgap=host_survey.airgap(directory)))
