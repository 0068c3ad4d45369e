"""What whoever runs an etcd does to it: fill it, make room, lock it; through its JSON gateway."""

import base64
import contextlib
import json
import urllib.error
import urllib.request
from typing import Any

_PREFIX = "/dragonfly/"


class Etcdctl:
    """One member's administrator."""

    def __init__(self, url: str) -> None:
        self._url = url

    def fill(self) -> None:
        """Write, outside of Dragonfly's prefix, until the quota is used up."""
        with contextlib.suppress(urllib.error.HTTPError):
            for _ in range(50):
                self._post("kv/put", {"key": _base64("/filler"), "value": _base64("x" * (1 << 20))})
            raise AssertionError("50 MiB did not fill it")

    def make_room(self) -> None:
        """What etcd's documentation tells to do after an alarm: compact, defragment, disarm."""
        revision = int(self._post("kv/range", {"key": _base64("/filler")})["header"]["revision"])
        self._post("kv/compaction", {"revision": revision, "physical": True})
        self._post("maintenance/defragment", {})
        for alarm in self._post("maintenance/alarm", {"action": "GET"}).get("alarms", []):
            self._post("maintenance/alarm", {"action": "DEACTIVATE", **alarm})

    def put(self, key: str, value: str) -> None:
        """Write a key of Dragonfly's, past it."""
        self._post("kv/put", {"key": _base64(_PREFIX + key), "value": _base64(value)})

    def enable_authentication(self, name: str, password: str) -> None:
        """Let in a user that may do what it likes below Dragonfly's prefix, and nothing else."""
        self._post("auth/user/add", {"name": "root", "password": "root"})
        self._post("auth/user/grant", {"user": "root", "role": "root"})
        self._post("auth/user/add", {"name": name, "password": password})
        self._post("auth/role/add", {"name": name})
        end = _PREFIX[:-1] + chr(ord(_PREFIX[-1]) + 1)
        permission = {"permType": "READWRITE", "key": _base64(_PREFIX), "range_end": _base64(end)}
        self._post("auth/role/grant", {"name": name, "perm": permission})
        self._post("auth/user/grant", {"user": name, "role": name})
        self._post("auth/enable", {})

    def change_password(self, name: str, password: str) -> None:
        token = self._post("auth/authenticate", {"name": "root", "password": "root"})["token"]
        self._post("auth/user/changepw", {"name": name, "password": password}, token)

    def _post(self, path: str, body: object, token: str = "") -> dict[str, Any]:
        request = urllib.request.Request(f"{self._url}/v3/{path}", json.dumps(body).encode(), {"Authorization": token})
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
