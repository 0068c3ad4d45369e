"""Images and charts from a registry: every part by its hash, in the layout that containerd imports."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragonfly.install.bundle import file_of, images_of, images_wanted, seal
from dragonfly.install.execution import StepFailed
from dragonfly.install.host_survey import airgap
from dragonfly.install.registry import Reference, Registry, reference
from tests.unit.install.served import CHART_TYPE, Served, digest, packed_chart


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as served:
        yield served


def quiet(text: str) -> None:
    pass


def test_an_image_is_saved_as_containerd_imports_it(served: Served, tmp_path: Path) -> None:
    served.image("plain", (b"layer", "application/vnd.oci.image.layer.v1.tar+gzip"))
    served.index("v1", "amd64", of="plain")
    image = Reference(served.host, "team/app", "v1")

    Registry(scheme="http").save_image(image, "amd64", tmp_path / "app.tar", quiet)

    with tarfile.open(tmp_path / "app.tar") as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr] # None for a directory alone
    assert found["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    (manifest,) = json.loads(found["index.json"])["manifests"]
    assert manifest["annotations"]["io.containerd.image.name"] == f"{served.host}/team/app:v1"
    raw = found[f"blobs/{manifest['digest'].replace(':', '/')}"]
    (layer,) = json.loads(raw)["layers"]
    assert found[f"blobs/{layer['digest'].replace(':', '/')}"] == b"layer"
    assert set(served.told_elsewhere) == {""}, "the token went to somebody else"


def test_an_image_for_another_architecture_is_told(served: Served, tmp_path: Path) -> None:
    served.image("plain", (b"layer", "application/vnd.oci.image.layer.v1.tar"))
    served.index("v1", "arm64", of="plain")

    with pytest.raises(StepFailed, match="is not there for linux/amd64"):
        Registry(scheme="http").save_image(Reference(served.host, "app", "v1"), "amd64", tmp_path / "a", quiet)


def test_a_blob_that_was_altered_is_refused(served: Served, tmp_path: Path) -> None:
    served.image("v1", (b"layer", "application/vnd.oci.image.layer.v1.tar"))
    served.blobs[digest(b"layer")] = b"other"

    with pytest.raises(StepFailed, match="should be sha256"):
        Registry(scheme="http").save_image(Reference(served.host, "app", "v1"), "amd64", tmp_path / "a", quiet)
    assert not (tmp_path / "a").exists()


def test_what_is_not_there_is_told(served: Served) -> None:
    with pytest.raises(StepFailed, match="says 404"):
        Registry(scheme="http").chart(Reference(served.host, "charts/x", "v9"))


def test_a_chart_names_the_images_that_it_starts(served: Served) -> None:
    packed = packed_chart()
    served.image("v0.25.0", (packed, CHART_TYPE))

    chart = Registry(scheme="http").chart(Reference(served.host, "charts/tinkerbell", "v0.25.0"))

    assert chart == packed
    assert [str(image) for image in images_of(chart)] == [
        "ghcr.io/tinkerbell/tinkerbell:v0.25.0",
        "ghcr.io/a/relay-init:v0.1.0",
        "ghcr.io/kube-vip/kube-vip:v1.0.0",
    ]


def test_a_bundle_has_the_images_of_all_modes_too() -> None:
    """`--etcd dedicated` starts an etcd that no chart names."""
    names = [str(image) for image in images_wanted(packed_chart())]

    assert [name for name in names if "etcd" in name] == ["gcr.io/etcd-development/etcd:v3.7.1"]
    assert not [name for name in names if "dragonfly" in name], "the replicas' own comes with --image-archive"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("nginx:1.29", "docker.io/library/nginx:1.29"),
        ("team/app:v1", "docker.io/team/app:v1"),
        ("ghcr.io/a/b:v1", "ghcr.io/a/b:v1"),
        ("localhost:5000/a:v1", "localhost:5000/a:v1"),
    ],
)
def test_a_short_name_is_made_whole(text: str, whole: str) -> None:
    assert str(reference(text)) == whole
    assert file_of(reference(text)).endswith(".tar")


def test_a_name_without_a_tag_is_refused() -> None:
    with pytest.raises(StepFailed):
        reference("ghcr.io/a/b")


def test_preflight_takes_what_was_sealed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("k3s", "tinkerbell.tgz", "images/dragonfly.tar"):
        (tmp_path / name).write_text(name)

    seal(tmp_path)

    found = airgap(tmp_path)
    assert (found.missing, found.broken) == ((), ())
