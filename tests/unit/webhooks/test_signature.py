"""What docs/webhooks.md tells receivers to do accepts what is ours, and nothing else."""

from datetime import UTC, datetime

import pytest

from dragonfly.webhooks.signature import signature
from tests.unit.webhooks.documented import is_genuine

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_NEW, _OLD = "n" * 32, "o" * 32


def verify(body: bytes, header: str, secret: str, now: float = _AT.timestamp()) -> bool:
    return is_genuine(body, header, secret, now)


def test_the_documented_check_takes_either_secret_while_one_replaces_the_other() -> None:
    header = signature(b"{}", [_NEW, _OLD], _AT)

    assert verify(b"{}", header, _NEW)
    assert verify(b"{}", header, _OLD)


@pytest.mark.parametrize(
    ("body", "secret", "later"), [(b"{ }", _NEW, 0), (b"{}", "x" * 32, 0), (b"{}", _NEW, 301), (b"{}", _NEW, -301)]
)
def test_the_documented_check_refuses_what_is_altered_or_old(body: bytes, secret: str, later: int) -> None:
    header = signature(b"{}", [_NEW], _AT)

    assert not verify(body, header, secret, _AT.timestamp() + later)


def test_a_known_signature() -> None:
    """Made with: printf '1767225600.{}' | openssl dgst -sha256 -hmac nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"""
    wanted = "eb46607d37ffa85510a276ef0d57db5226dc6878e8e34b100d926526d3e3c437"

    assert signature(b"{}", [_NEW], _AT) == f"t=1767225600,v1={wanted}"
