"""A stand-in for the website that models are downloaded from: it has the micro Whisper only."""

import json
import threading
import time
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from running_service import MICRO_WHISPER

FILES = {path.name: path.read_bytes() for path in Path(MICRO_WHISPER).glob("*.*")}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = 10_000  # bytes to send in one go


class ModelHub:
    """The hub, under an address of its own. Whatever model you ask for, you get the same one."""

    def __init__(self, bytes_per_second: float = 1e9, stalls_at: float = 1e9) -> None:
        hub = self
        self.asked: list[str] = []  # paths

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.asked.append(self.path)
                path = urlsplit(self.path).path
                if path.startswith("/api/models/"):
                    self.answer(json.dumps(listing(path.removeprefix("/api/models/"))).encode())
                elif (name := Path(path).name) in FILES:
                    self.answer(FILES[name])
                else:
                    self.send_error(404)

            do_HEAD = do_GET  # noqa: N815 (http.server calls it so)

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
                self.end_headers()
                if self.command == "HEAD":
                    return
                for begin in range(0, len(body), PIECE):
                    if begin >= stalls_at:
                        hub.closed.wait()
                        return
                    self.wfile.write(body[begin : begin + PIECE])
                    time.sleep(PIECE / bytes_per_second)

            def log_message(self, *arguments: Any) -> None:
                """Print nothing."""

        self.closed = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


def listing(repository: str) -> dict[str, object]:
    """Return what the hub says of a model: its files, and how large they are."""
    files = [{"rfilename": name, "size": len(content)} for name, content in FILES.items()]
    return {"id": repository, "sha": COMMIT, "private": False, "tags": [], "siblings": files}
