"""The few requests that setting up an API server takes: apply a manifest, ask for a token, look whether it is there.

Not a Kubernetes client: Dragonfly's own is `dragonfly.kube`. This one is synchronous and starts in no time, where a
kubectl would cost a second a call.
"""

import http.client
import json
import ssl
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

FIELD_MANAGER: Final = "dragonfly-sandbox"

_PLURALS: Final = {
    "Namespace": "namespaces",
    "ServiceAccount": "serviceaccounts",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Hardware": "hardware",
    "Template": "templates",
    "Workflow": "workflows",
}


class Answer(NamedTuple):
    status: int
    body: Any


class Refused(Exception):
    """The API server refused a request of the sandbox itself; the message is the server's."""


class KubeApi:
    """One identity at one API server."""

    def __init__(self, url: str, tls: ssl.SSLContext, token: str | None = None) -> None:
        self._host = urlsplit(url).netloc
        self._tls = tls
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, method: str, path: str, body: Any = None, media_type: str = "application/json") -> Answer:
        """One request; any status is an answer.

        Raises:
            OSError: no connection.
        """
        connection = http.client.HTTPSConnection(self._host, context=self._tls, timeout=30)
        try:
            encoded = None if body is None else json.dumps(body).encode()
            connection.request(method, path, encoded, {**self._headers, "Content-Type": media_type})
            response = connection.getresponse()
            content = response.read()
            is_json = response.getheader("Content-Type", "").startswith("application/json")
            return Answer(response.status, json.loads(content) if is_json else content.decode(errors="replace"))
        finally:
            connection.close()

    def apply(self, document: dict[str, Any]) -> Any:
        """Server-side apply.

        Raises:
            Refused: the API server did not take it.
        """
        path = f"{resource_path(document)}?fieldManager={FIELD_MANAGER}&force=true"
        return self._accepted("PATCH", path, document, "application/apply-patch+yaml")

    def token(self, namespace: str, service_account: str, *, hours: int) -> str:
        """A token of a ServiceAccount by the TokenRequest API.

        Raises:
            Refused: the API server did not issue it.
        """
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": hours * 3_600},
        }
        return str(self._accepted("POST", path, body)["status"]["token"])

    def _accepted(self, method: str, path: str, body: Any, media_type: str = "application/json") -> Any:
        answer = self.request(method, path, body, media_type)
        if answer.status >= http.client.BAD_REQUEST:
            reason = answer.body.get("message") if isinstance(answer.body, dict) else answer.body
            raise Refused(f"{method} {path}: {answer.status} {reason}")
        return answer.body


def resource_path(document: dict[str, Any]) -> str:
    """The path of an object in the API, from its manifest."""
    version, metadata = document["apiVersion"], document["metadata"]
    group = f"/apis/{version}" if "/" in version else f"/api/{version}"
    scope = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{group}{scope}/{_PLURALS[document['kind']]}/{metadata['name']}"
