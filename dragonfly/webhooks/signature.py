"""How a receiver knows that a delivery is ours, and fresh: HMAC-SHA256 over the time and the body. Pure.

`Dragonfly-Signature: t=1767225600,v1=<hex>`; while a secret is being replaced there is a `v1` for each of the two. What
is signed is the time as in the header, a full stop, and the body's bytes.
"""

import hmac
from collections.abc import Iterable
from datetime import datetime
from typing import Final

HEADER: Final = "Dragonfly-Signature"


def signature(body: bytes, secrets: Iterable[str], at: datetime) -> str:
    """Return the value of the header.

    Args:
        body: as it is sent.
        secrets: those that sign now.
        at: when it is sent; receivers refuse what is old.
    """
    time = str(int(at.timestamp()))
    signed = time.encode() + b"." + body
    digests = (hmac.digest(secret.encode(), signed, "sha256").hex() for secret in secrets)
    return ",".join([f"t={time}", *(f"v1={digest}" for digest in digests)])
