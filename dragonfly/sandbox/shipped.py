"""Files of `deploy/` that the sandbox uses exactly as they are shipped, from a checkout or from an installed wheel."""

from importlib import resources
from pathlib import Path
from typing import Final

# Where the wheel puts them (pyproject.toml, force-include), and where they lie in a checkout.
_CHECKOUT: Final = {
    "haproxy.cfg": "deploy/lb/haproxy.cfg",
    "rbac.yaml": "deploy/k3s/base/rbac.yaml",
    "rbac-fence.yaml": "deploy/k3s/base/rbac-fence.yaml",
}


def shipped(name: str) -> Path:
    """The path of one of the files above.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    package = Path(str(resources.files("dragonfly.sandbox")))
    for candidate in (package / name, package.parents[1] / _CHECKOUT[name]):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{name} is missing from this installation of Dragonfly; install it again")
