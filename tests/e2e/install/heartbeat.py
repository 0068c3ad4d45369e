"""Plays the kubelets' leases: which nodes live. The first of them by name is the one whose pods run."""

from __future__ import annotations

import datetime as dt
import threading
import traceback
from typing import Final

from dragonfly.sandbox.kubeapi import KubeApi

_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_MERGE: Final = "application/merge-patch+json"
_PAUSE: Final = 1.0
_DEAD: Final = dt.timedelta(seconds=20)
"""After so long without a word. All nodes have the clock of one computer."""


class Heartbeat:
    """Renews this node's lease on a thread of its own."""

    def __init__(self, api: KubeApi, name: str) -> None:
        self._api = api
        self._name = name
        self._stopped = threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()

    def is_first(self) -> bool:
        """Whether no node that lives has a name before this one's."""
        now = dt.datetime.now(dt.UTC)
        leases = {item["metadata"]["name"]: item["spec"] for item in self._api.request("GET", _LEASES).body["items"]}
        live = [name for name, spec in leases.items() if now - _time(spec["renewTime"]) < _DEAD]
        return min(live, default="") == self._name

    def _loop(self) -> None:
        while not self._stopped.wait(_PAUSE):
            try:
                self._renew()
            except Exception:
                # etcd may be without a leader for a moment.
                traceback.print_exc()

    def _renew(self) -> None:
        spec = {"holderIdentity": self._name, "renewTime": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%S.%fZ}"}
        if self._api.request("PATCH", f"{_LEASES}/{self._name}", {"spec": spec}, _MERGE).status == 404:
            made = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self._name}}
            self._api.request("POST", _LEASES, made | {"spec": spec})


def _time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
