"""Clients that read and write through the Service all the time, and forgive nothing: no request is sent twice."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx

_PAUSE: Final = 0.1
_PATIENCE: Final = 30.0
_NUMBERS: Final = itertools.count()
"""No two loads write the same machine."""
_FIRST_MAC: Final = 0x02_1D_00_00_00_00  # locally administered: no vendor has it


class Load:
    """Four clients: one reads and one writes on a connection that they keep, two do it on a new one each time."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._ended = threading.Event()
        self.failures: list[str] = []
        self.written: list[str] = []
        """The machines whose registration was answered with success."""
        self.answered: Counter[str] = Counter()
        """How many requests each replica has answered."""

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Have it for the block."""
        clients = [
            threading.Thread(target=client, args=(ask,), daemon=True)
            for client in (self._keeping, self._renewing)
            for ask in (self._read, self._write)
        ]
        for client in clients:
            client.start()
        try:
            yield self
        finally:
            self._ended.set()
            for client in clients:
                client.join()

    def _keeping(self, ask: Callable[[httpx.Client], None]) -> None:
        with self._client() as client:
            while not self._ended.wait(_PAUSE):
                self._judge(ask, client)

    def _renewing(self, ask: Callable[[httpx.Client], None]) -> None:
        while not self._ended.wait(_PAUSE):
            with self._client() as client:
                self._judge(ask, client)

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._url, headers=self._headers, timeout=_PATIENCE, trust_env=False)

    def _judge(self, ask: Callable[[httpx.Client], None], client: httpx.Client) -> None:
        try:
            ask(client)
        except (httpx.HTTPError, AssertionError) as error:
            self.failures.append(f"{ask.__name__}: {type(error).__name__} {error}")

    def _read(self, client: httpx.Client) -> None:
        answer = client.get("/api/v1/machines?limit=5")
        assert answer.status_code == httpx.codes.OK, answer.text
        self.answered[answer.headers["Dragonfly-Replica"]] += 1

    def _write(self, client: httpx.Client) -> None:
        number = next(_NUMBERS)
        name, mac = f"load-{number:05}", ":".join(f"{byte:02x}" for byte in (_FIRST_MAC + number).to_bytes(6, "big"))
        machine = {"metadata": {"name": name}, "spec": {"interfaces": [{"mac": mac, "dhcp": True}]}}
        answer = client.post("/api/v1/machines", json=machine, headers={"Idempotency-Key": str(uuid.uuid4())})
        assert answer.status_code == httpx.codes.CREATED, answer.text
        self.written.append(name)
        self.answered[answer.headers["Dragonfly-Replica"]] += 1
