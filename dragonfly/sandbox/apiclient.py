"""The demo as a user of Dragonfly's HTTP API: it creates things, with a key that makes repeating safe."""

import http.client
import json
import time
import uuid
from typing import Any, Final
from urllib.parse import urlsplit

_PATIENCE_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 0.2


class ApiRefused(Exception):
    """Dragonfly refused to create something; the message is its own problem document's."""


class ApiClient:
    """One connection at a time, kept open."""

    def __init__(self, url: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def create(self, kind: str, body: dict[str, Any]) -> None:
        """POST to `/api/v1/KIND`; repeated for a while when no replica answers or one asks to come again (503).

        Raises:
            ApiRefused: the answer was neither 2xx nor 503, or stayed 503.
        """
        headers = {**self._headers, "Idempotency-Key": str(uuid.uuid4())}
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            status, answer = self._post(f"/api/v1/{kind}", json.dumps(body), headers)
            if status < http.client.MULTIPLE_CHOICES:
                return
            if status != http.client.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise ApiRefused(f"POST /api/v1/{kind} {body['metadata']['name']}: {status} {answer}")
            time.sleep(_PAUSE_SECONDS)

    def _post(self, path: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
        try:
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return http.client.SERVICE_UNAVAILABLE, str(error)
