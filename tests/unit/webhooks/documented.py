"""The check that docs/webhooks.md tells receivers to make."""

import re
import time
from pathlib import Path
from typing import Any, Final

_DOC: Final = Path(__file__).parents[3] / "docs" / "webhooks.md"


def is_genuine(body: bytes, header: str, secret: str, now: float | None = None) -> bool:
    """Run the documentation's example; `now` is the present time by default."""
    (example,) = re.findall(r"```python\n(.*?)```", _DOC.read_text(encoding="utf-8"), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(example, scope)
    answer: bool = scope["is_from_dragonfly"](body, header, secret, time.time() if now is None else now)
    return answer
