"""Fetches images and charts from registries (OCI distribution), for hosts that cannot: every blob by its hash.

An image becomes an archive in OCI's layout with the name that containerd gives it, which k3s imports as it is.
"""

import hashlib
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from dragonfly.install.execution import StepFailed, Unreachable
from dragonfly.install.images import with_registry

Say = Callable[[str], None]

_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CHART: Final = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_REFERENCE: Final = re.compile(
    r"(?P<registry>[a-z0-9.-]+(:[0-9]+)?)/(?P<repository>[a-z0-9._/-]+):(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*)"
)
_HOSTS: Final = {"docker.io": "registry-1.docker.io"}
_PIECE: Final = 1 << 20
_SILENCE_SECONDS: Final = 60


class Reference(NamedTuple):
    """Where an image or a chart is."""

    registry: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}:{self.tag}"


def reference(text: str) -> Reference:
    """Return what a name such as `nginx:1.29` or `ghcr.io/a/b:v1` stands for.

    Raises:
        StepFailed: it is no name of an image with a tag.
    """
    named = with_registry(text)
    found = _REFERENCE.fullmatch(named)
    if found is None:
        raise StepFailed(f"{named!r} is no image with a tag, such as ghcr.io/kube-vip/kube-vip:v1.0.0")
    return Reference(found["registry"], found["repository"], found["tag"])


class Registry:
    """Asks registries as anybody may."""

    def __init__(self, *, scheme: str = "https", hosts: Mapping[str, str] = _HOSTS) -> None:
        """Begin without tokens.

        Args:
            scheme: tests have a registry without certificates.
            hosts: who answers for a registry that is not its own host; tests have one for all.
        """
        self._scheme = scheme
        self._hosts = hosts
        self._tokens: dict[str, str] = {}

    def save_image(self, image: Reference, architecture: str, target: Path, say: Say) -> None:
        """Write the archive of an image.

        Args:
            architecture: `amd64` or `arm64`.

        Raises:
            StepFailed: it is not there, or not for this architecture, or a part of it is not what its hash says.
        """
        raw, manifest = self._manifest(image, architecture)
        new = target.with_name(f".{target.name}.new")
        with tarfile.open(new, "w") as archive:
            _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            seen: set[str] = set()
            for part in (manifest["config"], *manifest["layers"]):
                if part["digest"] not in seen:
                    seen.add(part["digest"])
                    say(f"{image}: {part['size'] >> 20} MiB")
                    self._save_blob(image, part, archive)
            digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            _add(archive, _place(digest), raw)
            _add(archive, "index.json", json.dumps(_index(image, manifest["mediaType"], digest, len(raw))).encode())
        new.replace(target)

    def chart(self, chart: Reference) -> bytes:
        """Return the archive of a Helm chart.

        Raises:
            StepFailed: as `save_image`.
        """
        _, manifest = self._manifest(chart, "")
        for layer in manifest["layers"]:
            if layer["mediaType"] == _CHART:
                with self._blob(chart, layer["digest"]) as source:
                    content = source.read()
                _check(layer["digest"], hashlib.sha256(content).hexdigest(), chart)
                return content
        raise StepFailed(f"{chart} is no Helm chart")

    def _manifest(self, image: Reference, architecture: str) -> tuple[bytes, Any]:
        raw = self._read(image, f"manifests/{image.tag}")
        found = json.loads(raw)
        if found.get("mediaType") in _INDEXES or "manifests" in found:
            digest = _for(found["manifests"], architecture, image)
            raw = self._read(image, f"manifests/{digest}")
            _check(digest, hashlib.sha256(raw).hexdigest(), image)
            found = json.loads(raw)
        return raw, {"mediaType": _MANIFESTS[0], **found}

    def _save_blob(self, image: Reference, part: Mapping[str, Any], archive: tarfile.TarFile) -> None:
        with self._blob(image, part["digest"]) as source, tempfile.TemporaryFile() as file:
            digest, size = hashlib.sha256(), 0
            while piece := source.read(_PIECE):
                digest.update(piece)
                file.write(piece)
                size += len(piece)
            _check(part["digest"], digest.hexdigest(), image)
            file.seek(0)
            entry = tarfile.TarInfo(_place(part["digest"]))
            entry.size = size
            archive.addfile(entry, file)

    def _blob(self, image: Reference, digest: str) -> IO[bytes]:
        return self._open(image, f"blobs/{digest}")

    def _read(self, image: Reference, path: str) -> bytes:
        with self._open(image, path) as answer:
            return answer.read()

    def _open(self, image: Reference, path: str) -> IO[bytes]:
        host = self._hosts.get(image.registry, image.registry)
        url = f"{self._scheme}://{host}/v2/{image.repository}/{path}"
        place = f"{host}/{image.repository}"
        try:
            return _opened(url, self._tokens.get(place, ""))
        except HTTPError as error:
            if error.code != 401 or place in self._tokens:
                raise StepFailed(f"{image}: {host} says {error.code} {error.reason}") from error
            self._tokens[place] = self._token(error.headers.get("WWW-Authenticate", ""), image)
            return self._open(image, path)
        except (URLError, OSError) as error:
            raise Unreachable(f"{image}: {host} does not answer: {error}") from error

    def _token(self, challenge: str, image: Reference) -> str:
        """Return what a registry gives to anybody who asks for one image."""
        said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        if not challenge.startswith("Bearer ") or not said.get("realm", "").startswith(f"{self._scheme}://"):
            raise StepFailed(f"{image}: {image.registry} wants to know who asks")
        asked = {"service": said.get("service", ""), "scope": f"repository:{image.repository}:pull"}
        try:
            with _opened(f"{said['realm']}?{urlencode(asked)}", "") as answer:
                found = json.loads(answer.read())
        except (URLError, OSError) as error:
            raise Unreachable(f"{image}: {image.registry} gives no token: {error}") from error
        return str(found.get("token") or found.get("access_token") or "")


def _opened(url: str, token: str) -> IO[bytes]:
    request = Request(url, headers={"Accept": ", ".join((*_INDEXES, *_MANIFESTS))})  # noqa: S310 - https, or a test's
    if token:
        # Blobs are often somebody else's to serve, who must not get the token.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    opened: IO[bytes] = urlopen(request, timeout=_SILENCE_SECONDS)  # noqa: S310 - as above
    return opened


def _for(manifests: list[Any], architecture: str, image: Reference) -> str:
    for one in manifests:
        platform = one.get("platform", {})
        if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
            return str(one["digest"])
    raise StepFailed(f"{image} is not there for linux/{architecture}")


def _index(image: Reference, media_type: str, digest: str, size: int) -> dict[str, Any]:
    names = {"io.containerd.image.name": str(image), "org.opencontainers.image.ref.name": image.tag}
    manifest = {"mediaType": media_type, "digest": digest, "size": size, "annotations": names}
    return {"schemaVersion": 2, "mediaType": _INDEXES[0], "manifests": [manifest]}


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _check(expected: str, found: str, image: Reference) -> None:
    if expected != f"sha256:{found}":
        raise StepFailed(f"{image}: a part of it is {found}, and should be {expected}")
