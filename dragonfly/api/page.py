"""The front page: one file without any outside part, under a policy that lets nothing else in."""

import base64
import hashlib
import re
from collections.abc import Callable
from importlib.resources import files

from starlette.responses import HTMLResponse, Response


def front_page() -> Callable[[], Response]:
    """Return what answers with the page; the file is read once."""
    html = files("dragonfly.api").joinpath("ui/index.html").read_text("utf-8")
    headers = {
        "Content-Security-Policy": content_security_policy(html),
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }
    return lambda: HTMLResponse(html, headers=headers)


def content_security_policy(html: str) -> str:
    """Allow the page's own script and style by their hashes, requests to this origin, and nothing else."""
    scripts = " ".join(_hashes(html, "script"))
    styles = " ".join(_hashes(html, "style"))
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(html: str, element: str) -> list[str]:
    texts = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]
