"""What is in the directory of an airgapped installation, and under which names. Pure."""

from typing import Final

K3S: Final = "k3s"
CHART: Final = "tinkerbell.tgz"
IMAGES: Final = "images"
"""A directory of archives, each with images as containerd imports them."""
ARCHITECTURE: Final = "architecture"
"""Which hosts its programs run on, `amd64` or `arm64`; bundles of older versions have no such file."""
SUMS: Final = "SHA256SUMS"
"""In the manner of sha256sum, of all other files."""

NEEDED: Final = (SUMS, K3S, CHART, IMAGES)
"""Without which a bundle is none."""
