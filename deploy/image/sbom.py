"""The bill of materials of an image, as CycloneDX 1.6: the libraries of this Python, and the packages of the base.

    python sbom.py WHEELS OUTPUT

Runs in the image that it describes, where there is nothing but the standard library. Nothing in it depends on when or
where it runs but for the time, which is SOURCE_DATE_EPOCH.
"""

import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

_NAMESPACE: Final = uuid.UUID("9f0c2c5e-6a0b-5a55-9d7e-3d2f6a4a3c11")
_DPKG: Final = Path("/var/lib/dpkg/status")
_OS: Final = Path("/etc/os-release")
_ROOT: Final = "dragonfly"


def bill(wheels: Path, packages: str, distribution: str, time: datetime) -> dict[str, Any]:
    """Return the document.

    Args:
        wheels: the directory that the libraries were installed from.
        packages: dpkg's status file; empty where the base has none.
        distribution: such as `debian`, part of the packages' identity.
        time: when what is described was made.
    """
    hashes = dict(_wheel_hashes(wheels))
    installed = {_normal(found.name): found for found in metadata.distributions()}
    root = _library(installed.pop(_ROOT), {})
    libraries = [_library(installed[name], hashes) for name in sorted(installed)]
    base = list(_packages(packages, distribution))
    components = libraries + base
    dependencies: list[dict[str, Any]] = []
    if not any(re.fullmatch(r"python3\.\d+(-minimal)?", package["name"]) for package in base):
        python = _interpreter()
        components.append(python)
        dependencies.append({"ref": python["bom-ref"], "dependsOn": []})
    everything = {_ROOT: metadata.distribution(_ROOT), **installed}
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": {**root, "type": "application"}},
        "components": components,
        "dependencies": dependencies + [_depends(everything[name], everything) for name in sorted(everything)],
    }
    content = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return {**document, "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}"}


def _interpreter() -> dict[str, Any]:
    """This Python, where it is no package of the base: the images of that name build it from source."""
    version = ".".join(map(str, sys.version_info[:3]))
    purl = f"pkg:generic/python@{version}"
    cpe = f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*"
    return {"type": "library", "bom-ref": purl, "name": "python", "version": version, "purl": purl, "cpe": cpe}


def _library(found: metadata.Distribution, hashes: Mapping[str, str]) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(found),
        "name": found.name,
        "version": found.version,
        "purl": _purl(found),
    }
    if licences := _licences(found.metadata):
        component["licenses"] = licences
    if digest := hashes.get(_normal(found.name)):
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return component


def _licences(said: metadata.PackageMetadata) -> list[dict[str, Any]]:
    if "License-Expression" in said:
        return [{"expression": said["License-Expression"]}]
    name = said["License"].strip() if "License" in said else ""
    # Some put the whole text there.
    return [{"license": {"name": name}}] if name and "\n" not in name else []


def _depends(found: metadata.Distribution, installed: Mapping[str, metadata.Distribution]) -> dict[str, Any]:
    wanted = {
        _normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in found.requires or () if "extra" not in line
    }
    return {"ref": _purl(found), "dependsOn": sorted(_purl(installed[name]) for name in wanted & installed.keys())}


def _wheel_hashes(directory: Path) -> Iterator[tuple[str, str]]:
    for wheel in sorted(directory.glob("*.whl")):
        yield _normal(wheel.name.partition("-")[0]), hashlib.sha256(wheel.read_bytes()).hexdigest()


def _packages(status: str, distribution: str) -> Iterator[dict[str, Any]]:
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", stanza, re.MULTILINE))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/{distribution}/{name}@{version.replace('+', '%2B')}?arch={architecture}"
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _purl(found: metadata.Distribution) -> str:
    return f"pkg:pypi/{_normal(found.name)}@{found.version}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distribution() -> str:
    match = re.search(r'^ID="?(\w+)', _OS.read_text(encoding="utf-8"), re.MULTILINE) if _OS.exists() else None
    return match[1] if match else "unknown"


def main() -> None:
    wheels, output = map(Path, sys.argv[1:])
    time = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    packages = _DPKG.read_text(encoding="utf-8") if _DPKG.exists() else ""
    document = bill(wheels, packages, _distribution(), time)
    output.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
