"""How to reach etcd."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dragonfly.settings import Settings


class EtcdSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where etcd is, who we are to it, and how long we wait; all times are seconds."""

    endpoints: tuple[str, ...]
    """`http://` or `https://` URLs, the preferred first; one with a path is a relay (`is_relay`)."""
    prefix: str = "/dragonfly/"
    username: str = ""
    password_file: Path | None = None
    """Read anew at each login, so that a rotated password needs no restart."""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    replica_token_file: Path | None = None
    """What this replica shows to relays."""
    timeout: float = 5.0
    """For one call as a whole, all tries on all endpoints together."""
    attempt_timeout: float = 2.0
    """For one try of a call that may be repeated, so that a frozen endpoint leaves time for the next."""
    connect_timeout: float = 1.0
    quarantine: float = 2.0
    """For how long an endpoint that failed is asked only if all others failed later."""
    threads: int = 8
    """Calls in flight at once."""
    silence: float = 8.0
    """A watch that has delivered nothing for so long is taken up anew, on another endpoint."""
    quiet: float = 4.0
    """After so long without a change, a follower writes the progress key to prove its watch; half of it is jitter."""
    page: int = 1000
    """Keys fetched by one request of a range."""


def etcd_settings(settings: Settings) -> EtcdSettings:
    """Return what the settings of a replica say of etcd."""
    return EtcdSettings(
        endpoints=settings.etcd_endpoints,
        prefix=settings.etcd_prefix,
        username=settings.etcd_username,
        password_file=_path(settings.etcd_password_file),
        ca_file=_path(settings.etcd_ca_file),
        cert_file=_path(settings.etcd_cert_file),
        key_file=_path(settings.etcd_key_file),
        replica_token_file=_path(settings.replica_token_file),
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None
