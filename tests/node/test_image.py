"""The image of a replica as an archive: what its bill of materials says is what is in it, and no time but one is."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.node import replica_image

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

WHEEL = re.compile(r"opt/dragonfly/lib/python[^/]+/site-packages/([^/]+)-([^-/]+)\.dist-info/METADATA")
BILL = "opt/dragonfly/sbom.cdx.json"


class Image:
    """An archive in Docker's format."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        (manifest,) = self._json("manifest.json")
        self.config: dict[str, Any] = self._json(manifest["Config"])
        self._base, self._own = manifest["Layers"]

    def files(self) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        """What the project adds to the base; the content of regular files."""
        return self._files(self._own)

    def packages(self) -> set[tuple[str, str]]:
        """Those of Debian in the base, as dpkg has them."""
        (status,) = (
            content for member, content in self._files(self._base) if member.name.endswith("var/lib/dpkg/status")
        )
        return {(normal(one["Package"]), one["Version"]) for one in map(_fields, status.decode().strip().split("\n\n"))}

    def _files(self, layer_name: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        with tarfile.open(fileobj=self._archive.extractfile(layer_name)) as layer:
            for member in layer:
                content = layer.extractfile(member) if member.isfile() else None
                yield member, content.read() if content else b""

    def _json(self, name: str) -> Any:
        return json.load(self._archive.extractfile(name) or io.BytesIO())


def _fields(paragraph: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" "))


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tarfile.open(replica_image.archive()) as archive:
        yield Image(archive)


def test_the_bill_of_materials_names_what_is_in_the_image_and_nothing_else(image: Image) -> None:
    files = {member.name: content for member, content in image.files() if member.isfile()}

    bill = json.loads(files[BILL])

    assert bill["bomFormat"] == "CycloneDX"
    components = (*bill["components"], bill["metadata"]["component"])
    wheels = {(normal(match[1]), match[2]) for name in files if (match := WHEEL.fullmatch(name))}
    assert named(components, "pkg:pypi/") == wheels
    assert "dragonfly" in {name for name, _ in wheels}
    assert named(components, "pkg:deb/") == image.packages()


def test_the_only_time_in_it_is_that_of_the_commit(image: Image) -> None:
    created = dt.datetime.fromisoformat(image.config["created"]).timestamp()

    assert {member.mtime for member, _ in image.files()} == {created}
    assert {dt.datetime.fromisoformat(step["created"]).timestamp() for step in image.config["history"]} == {created}


def test_it_runs_as_nobody(image: Image) -> None:
    assert image.config["config"]["User"] == "65532:65532"
    assert image.config["config"]["Entrypoint"] == ["/opt/dragonfly/bin/dragonfly"]


def named(components: Sequence[dict[str, Any]], kind: str) -> set[tuple[str, str]]:
    """The names and versions of those whose package URL begins so."""
    return {(normal(one["name"]), one["version"]) for one in components if one["purl"].startswith(kind)}


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
