"""Makes the directory of an airgapped installation, where there is internet (`bundle_files` has its names)."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from dragonfly.install import k3s
from dragonfly.install.bundle_files import ARCHITECTURE, CHART, IMAGES, K3S, SUMS
from dragonfly.install.execution import StepFailed
from dragonfly.install.host import Host, sha256
from dragonfly.install.manifests import images as images_of_manifests
from dragonfly.install.options import K3S_VERSION, TINKERBELL_VERSION
from dragonfly.install.registry import Reference, Registry, reference
from dragonfly.install.tinkerbell import CHART as CHART_URL

Say = Callable[[str], None]

_PREFIX: Final = "oci://"


class Wanted(NamedTuple):
    """What goes into it."""

    architecture: str = "amd64"
    """`amd64` or `arm64`."""
    k3s_version: str = K3S_VERSION
    tinkerbell_version: str = TINKERBELL_VERSION
    image_archive: str = ""
    """Of a replica, as `make image` makes it."""
    k3s_releases: str = k3s.RELEASES
    """The URL above k3s's versions; tests have one of their own."""


def make(directory: Path, wanted: Wanted, registry: Registry, say: Say) -> None:
    """Fill the directory; its checksums come last, so that half a bundle is none.

    Raises:
        StepFailed: something cannot be had.
    """
    images = directory / IMAGES
    images.mkdir(parents=True, exist_ok=True)
    (directory / SUMS).unlink(missing_ok=True)
    _save_k3s(directory, wanted, say)
    chart = registry.chart(reference(f"{CHART_URL.removeprefix(_PREFIX)}:{wanted.tinkerbell_version}"))
    (directory / CHART).write_bytes(chart)
    for image in images_wanted(chart):
        registry.save_image(image, wanted.architecture, images / file_of(image), say)
    if wanted.image_archive:
        _copy(Path(wanted.image_archive), images)
    (directory / ARCHITECTURE).write_text(f"{wanted.architecture}\n", encoding="utf-8")
    seal(directory)


def seal(directory: Path) -> None:
    """Write the checksums of all that is in it."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != SUMS]
    lines = [f"{sha256(path)}  {path.relative_to(directory)}\n" for path in files]
    (directory / SUMS).write_text("".join(lines), encoding="utf-8")


def images_wanted(chart: bytes) -> tuple[Reference, ...]:
    """Return the images that an installation starts in any of its modes, but for k3s's own and the replicas'."""
    return (*images_of(chart), *map(reference, images_of_manifests()))


def images_of(chart: bytes) -> tuple[Reference, ...]:
    """Return the images that Tinkerbell's chart starts with an installer's values, with its own versions. Pure."""
    with tarfile.open(fileobj=io.BytesIO(chart)) as archive:
        values, about = (_document(archive, name) for name in ("values.yaml", "Chart.yaml"))
    deployment = values["deployment"]
    tag = deployment.get("imageTag") or about["appVersion"]
    names = (f"{deployment['image']}:{tag}", deployment["init"]["image"], values["optional"]["kubevip"]["image"])
    return tuple(map(reference, names))


def file_of(image: Reference) -> str:
    """Return the name of an image's archive."""
    return f"{image.repository.rpartition('/')[2]}-{image.tag}.tar"


def _document(archive: tarfile.TarFile, name: str) -> Any:
    for member in archive.getmembers():
        if member.name.count("/") == 1 and member.name.endswith(f"/{name}") and (file := archive.extractfile(member)):
            return yaml.safe_load(file.read())
    raise StepFailed(f"the chart has no {name}")


def _save_k3s(directory: Path, wanted: Wanted, say: Say) -> None:
    host = Host(directory, scheme=wanted.k3s_releases.partition(":")[0])
    urls = {
        name: k3s.download(wanted.k3s_version, wanted.architecture, name, wanted.k3s_releases)
        for name in ("binary", "images", "sums")
    }
    host.download(urls["binary"], urls["sums"], f"/{K3S}", 0o755, say)
    host.download(urls["images"], urls["sums"], f"/{IMAGES}/{urls['images'].rpartition('/')[2]}", 0o644, say)


def _copy(archive: Path, images: Path) -> None:
    try:
        # The name says to an upgrade that these are replicas.
        name = archive.name if archive.name.startswith("dragonfly") else f"dragonfly-{archive.name}"
        shutil.copyfile(archive, images / name)
    except OSError as error:
        raise StepFailed(f"{archive} cannot be copied: {error.strerror}") from error
