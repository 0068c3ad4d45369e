"""Files of a host: replaced in one go, checked, put back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dragonfly.install.execution import StepFailed
from dragonfly.install.host import Host, expected_sum
from dragonfly.install.host_survey import airgap, image_files
from dragonfly.install.server_asked import token_problem
from dragonfly.install.steps import RemoveDirectory, RemoveFile, RestoreFile


def test_a_file_is_written_with_its_mode_and_seen_as_such(tmp_path: Path) -> None:
    host = Host(tmp_path)

    host.write("/etc/a/b", b"content", 0o600)

    assert host.has("/etc/a/b", b"content", 0o600)
    assert not host.has("/etc/a/b", b"content", 0o644)
    assert not host.has("/etc/a/b", b"other", 0o600)
    assert [path.name for path in (tmp_path / "etc/a").iterdir()] == ["b"]


def test_what_takes_a_new_file_back_removes_the_directories_made_for_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()

    undo = Host(tmp_path).undo_of_file("/etc/a/b/c", tmp_path / "saved")

    assert undo == (RemoveFile("/etc/a/b/c"), RemoveDirectory("/etc/a/b"), RemoveDirectory("/etc/a"))


def test_a_directory_in_which_something_else_came_to_be_stays(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.write("/etc/a/theirs", b"", 0o644)

    host.take_back(RemoveDirectory("/etc/a"))

    assert (tmp_path / "etc/a/theirs").exists()


def test_a_file_that_was_there_comes_back(tmp_path: Path) -> None:
    host = Host(tmp_path / "root")
    host.write("/etc/a", b"before", 0o640)
    (undo,) = host.undo_of_file("/etc/a", tmp_path / "saved")
    host.write("/etc/a", b"after", 0o600)

    assert isinstance(undo, RestoreFile)
    host.take_back(undo)

    assert host.has("/etc/a", b"before", 0o640)


def test_only_https_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="is not https"):
        Host(tmp_path).download("http://example.com/k3s", "http://example.com/sums", "/k3s", 0o755, lambda _: None)


def test_a_checksum_is_found_by_the_name_of_the_file() -> None:
    sums = "aa  k3s-arm64\nbb *k3s\n"

    assert expected_sum(sums, "https://example.com/v1%2Bk3s1/k3s") == "bb"
    with pytest.raises(StepFailed, match="no checksum of other"):
        expected_sum(sums, "https://example.com/other")


def test_what_a_bundle_lacks_and_what_nobody_vouches_for(tmp_path: Path) -> None:
    assert not airgap(tmp_path / "nowhere").present
    (tmp_path / "images").mkdir()
    (tmp_path / "k3s").write_bytes(b"k3s")
    (tmp_path / "images" / "a.tar").write_bytes(b"a")
    sums = f"{hashlib.sha256(b'k3s').hexdigest()}  k3s\n{hashlib.sha256(b'b').hexdigest()}  images/a.tar\n"
    (tmp_path / "SHA256SUMS").write_text(sums)
    (tmp_path / "images" / "slipped-in.tar").write_bytes(b"x")

    found = airgap(tmp_path)

    assert found.missing == ("tinkerbell.tgz",)
    assert found.broken == ("images/a.tar", "images/slipped-in.tar")
    assert image_files(str(tmp_path)) == ("a.tar", "slipped-in.tar")


def test_a_token_of_another_cluster_is_recognized() -> None:
    authority = b"-----BEGIN CERTIFICATE-----"
    ours = f"K10{hashlib.sha256(authority).hexdigest()}::server:secret"

    assert token_problem(ours, authority) == ""
    assert token_problem("short-secret", authority) == ""
    assert token_problem(ours, b"other") == "the token is another cluster's"
