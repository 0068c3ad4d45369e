"""The bill of materials of an image."""

import platform
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from deploy.image.sbom import bill

TIME = datetime(2026, 1, 1, tzinfo=UTC)
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def test_it_has_every_library_once_and_the_packages_that_are_installed(tmp_path: Path) -> None:
    (tmp_path / "msgspec-1-py3-none-any.whl").write_bytes(b"wheel")

    document = bill(tmp_path, STATUS, "debian", TIME)

    found = {component["purl"]: component for component in document["components"]}
    assert len(found) == len(document["components"])
    assert [purl for purl in found if purl.startswith("pkg:deb")] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64"
    ]
    (msgspec,) = [component for component in found.values() if component["name"] == "msgspec"]
    assert msgspec["hashes"] == [{"alg": "SHA-256", "content": sha256(b"wheel").hexdigest()}]
    assert document["metadata"]["component"]["name"] == "dragonfly"


def test_each_reference_leads_to_a_component(tmp_path: Path) -> None:
    document = bill(tmp_path, "", "debian", TIME)

    known = {component["bom-ref"] for component in [document["metadata"]["component"], *document["components"]]}
    named = {reference for entry in document["dependencies"] for reference in [entry["ref"], *entry["dependsOn"]]}
    assert named == known
    (own,) = [entry for entry in document["dependencies"] if entry["ref"].startswith("pkg:pypi/dragonfly@")]
    assert any(reference.startswith("pkg:pypi/starlette@") for reference in own["dependsOn"])


def test_the_same_materials_make_the_same_bill(tmp_path: Path) -> None:
    assert bill(tmp_path, STATUS, "debian", TIME) == bill(tmp_path, STATUS, "debian", TIME)
    assert bill(tmp_path, "", "debian", TIME)["serialNumber"] != bill(tmp_path, STATUS, "debian", TIME)["serialNumber"]


def test_the_interpreter_is_in_it_whether_or_not_the_base_has_it_as_a_package(tmp_path: Path) -> None:
    debians = (
        STATUS + "\nPackage: python3.11-minimal\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.11.2-6\n"
    )

    built, packaged = (bill(tmp_path, status, "debian", TIME)["components"] for status in (STATUS, debians))

    (python,) = [component for component in built if component["name"] == "python"]
    assert python["purl"] == f"pkg:generic/python@{platform.python_version()}"
    assert [component["name"] for component in packaged if component["name"].startswith("python3")] == [
        "python3.11-minimal"
    ]
    assert "python" not in {component["name"] for component in packaged}
