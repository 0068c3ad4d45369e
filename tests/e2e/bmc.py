"""A BMC that is one thread: speaks Rufio's rpc protocol, remembers what it was asked, and fails on demand."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_AFTER = {"on": "on", "off": "off", "soft": "off", "cycle": "on", "reset": "on"}


class Bmc:
    """`asked` has every change that was asked for, in order; `failure` is said to each while it is set."""

    def __init__(self) -> None:
        self.power = "off"
        self.failure = ""
        self.asked: list[str] = []
        self.url = ""

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        method, parameters = call["method"], call.get("params") or {}
        if method.startswith("set"):
            self.asked.append(parameters["device"] if method == "setBootDevice" else parameters["state"])
            if self.failure:
                return {"error": {"code": 500, "message": self.failure}}
        if method == "setPowerState":
            self.power = _AFTER[parameters["state"]]
        return {"result": self.power if method == "getPowerState" else "ok"}

    @contextmanager
    def running(self) -> Iterator["Bmc"]:
        bmc = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps({"id": call["id"], "host": call["host"], **bmc.answer(call)}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                # Rufio takes no chunked answers.
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
