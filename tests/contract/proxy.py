"""A TCP proxy between a client and a real server, that breaks what networks break."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from dragonfly.sandbox.ports import LOOPBACK


class Proxy:
    """Forwards bytes; `cut`, `lose_next_answer` and `freeze` say what happens to them."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = f"http://{LOOPBACK}:{self._listener.getsockname()[1]}"
        self.cut = 0
        """Answers go on in pieces of so many bytes; 0 as they come."""
        self.accepted = 0
        self.lost = threading.Event()
        self._lose = False
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def lose_next_answer(self) -> None:
        """The next answer's bytes are thrown away, and its connection is closed."""
        self._lose = True

    def freeze(self) -> None:
        """Nothing goes through any more, and nothing is closed: the other side vanished."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def lead_to(self, target: int) -> None:
        """Lead to another port from now on; connections to the one before are closed."""
        self._target = target
        self.disconnect()

    def disconnect(self) -> None:
        """Close every connection; new ones are welcome."""
        for link in tuple(self._sockets):
            _shut(link)

    def close(self) -> None:
        _shut(self._listener)
        self._listener.close()
        accepting = self._threads[0]
        accepting.join(60)  # first, for whoever is still let in would have to be disconnected after all others
        self._flowing.set()
        self.disconnect()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _spawn(self, target: Callable[..., object], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                server = socket.create_connection((LOOPBACK, self._target))
            except OSError:
                client.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets |= {client, server}
            self._spawn(self._pump, client, server, False)
            self._spawn(self._pump, server, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._flowing.wait()
                if answers and self._lose:
                    self._lose = False
                    self.lost.set()
                    break
                for piece in self._pieces(data) if answers else (data,):
                    sink.sendall(piece)
        for link in (source, sink):
            self._sockets.discard(link)
            _shut(link)
            link.close()

    def _pieces(self, data: bytes) -> list[bytes]:
        step = self.cut or len(data)
        return [data[start : start + step] for start in range(0, len(data), step)]


def _shut(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
