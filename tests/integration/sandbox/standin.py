"""Stands in for a replica: enough of HTTP to see what a supervisor and a load balancer do with it.

Run by path, with DRAGONFLY_LISTEN and DRAGONFLY_REPLICA; accepted POSTs and slow GETs are lines in STANDIN_JOURNAL.
"""

import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPLICA = os.environ["DRAGONFLY_REPLICA"]
JOURNAL = Path(os.environ["STANDIN_JOURNAL"])
# A replica is not ready while a file with its name lies here.
UNREADY = Path(os.environ["STANDIN_UNREADY"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/readyz":
            self._answer(503 if (UNREADY / REPLICA).exists() else 200)
        elif self.path == "/cached":
            self._answer(200 if REPLICA == "c" else 503)  # the others have only started
        elif self.path == "/slow":
            self._note()
            time.sleep(2)
            self._answer(200)
        elif self.path == "/api/v1/events":
            self._stream()
        else:
            self._answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._note()
        if self.path == "/lose" and REPLICA == "a":
            self.close_connection = True  # accepted, and never answered
            return
        self._answer(201)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: the tests look at the journal."""

    def _note(self) -> None:
        with JOURNAL.open("a") as journal:
            journal.write(f"{REPLICA} {self.path}\n")

    def _answer(self, status: int) -> None:
        body = REPLICA.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        while True:
            self.wfile.write(f"data: {REPLICA}\n\n".encode())
            time.sleep(0.2)


if __name__ == "__main__":
    host, _, port = os.environ["DRAGONFLY_LISTEN"].partition(":")
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
