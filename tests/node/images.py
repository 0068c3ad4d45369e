"""Images of one program and nothing else, as archives that a runtime imports."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.contract import debian

_IDLE = ("/bin/busybox", "sh", "-c", "exec /bin/busybox sleep 2147483647")
_EPOCH = "1970-01-01T00:00:00Z"


def of_one_program(name: str, program: Path, place: str, entrypoint: Sequence[str]) -> bytes:
    """An image in Docker's format.

    Args:
        program: linked statically.
        place: where it is in the image.
    """
    layer = _tar({place.lstrip("/"): program.read_bytes()}, mode=0o755)
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "created": _EPOCH,
        "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"config.json": config, "manifest.json": manifest}
    return _tar({"layer.tar": layer, **{file: json.dumps(content).encode() for file, content in files.items()}})


def idle(name: str) -> bytes:
    """An image that does nothing for as long as it runs, whatever it is told."""
    return of_one_program(name, debian.busybox(), "/bin/busybox", _IDLE)


def renamed(archive: Path, name: str, target: Path) -> Path:
    """Copy an archive of one image under another name of it."""
    with tarfile.open(archive) as source, tarfile.open(target, mode="w") as copy:
        for member in source:
            content = source.extractfile(member)
            if member.name == "manifest.json":
                assert content is not None
                (image,) = json.load(content)
                changed = json.dumps([image | {"RepoTags": [name]}]).encode()
                member.size, content = len(changed), io.BytesIO(changed)
            copy.addfile(member, content)
    return target


def _tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
