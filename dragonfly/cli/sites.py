"""Replicas by their sites, for people."""

from collections.abc import Iterable


def by_site(replicas: Iterable[tuple[str, str]]) -> str:
    """Return `fra1: a,b; ber1: c` of sites with their replicas; a replica without site stands alone."""
    sites: dict[str, list[str]] = {}
    for site, replica in sorted(replicas):
        sites.setdefault(site, []).append(replica)
    return "; ".join(f"{site}: {','.join(names)}" if site else ",".join(names) for site, names in sites.items())
