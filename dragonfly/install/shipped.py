"""The manifests of `deploy/k3s` as they are shipped, from a checkout or from an installed wheel."""

from importlib import resources
from pathlib import Path


def shipped() -> Path:
    """Return the directory with `base`, `components` and `overlays`.

    Raises:
        FileNotFoundError: the installation of Dragonfly is incomplete.
    """
    package = Path(str(resources.files("dragonfly.install")))
    # Where the wheel puts it (pyproject.toml, force-include), and where it lies in a checkout.
    for candidate in (package / "deploy", package.parents[1] / "deploy" / "k3s"):
        if (candidate / "base" / "kustomization.yaml").is_file():
            return candidate
    raise FileNotFoundError("the manifests are missing from this installation of Dragonfly; install it again")
