"""Asks the swarm as its users do."""

import http.client
import json
from typing import Any, Final

_ANSWER_SECONDS: Final = 10


def swarm_problem(address: str, port: int, token: str) -> str:
    """Return why the swarm is not well; empty if it is."""
    try:
        swarm = _asked(address, port, token)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"the swarm does not answer at {address}:{port}: {error}"
    if unowned := swarm.get("unowned"):
        return f"{len(unowned)} shards have no owner yet"
    state = swarm.get("etcd", {}).get("state", "ok")
    return "" if state == "ok" else f"etcd is {state}"


def _asked(address: str, port: int, token: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(address, port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/api/v1/swarm", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != http.client.OK:
            raise ValueError(f"it said {answer.status}")
        found: dict[str, Any] = json.loads(body)
        return found
    finally:
        connection.close()
