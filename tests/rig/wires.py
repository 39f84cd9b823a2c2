"""What the tests of the first steps have between the programs: servers, proxies, raw sockets."""

import base64
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from running_lessons import ROOT, STRICT_PYTHON, lesson_environment

PATIENCE = 20.0  # seconds until a test gives up on an event


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Wait for something to happen; fail with its name if it does not."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s in vain: {what}"
        time.sleep(0.01)


class RunningLesson:
    """A lesson in a process of its own; all that it prints, errors included, goes to a file."""

    def __init__(self, log: Path, path: str | Path, env: dict[str, str]) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*STRICT_PYTHON, str(ROOT / path)],
                cwd=ROOT,
                env=lesson_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def says(self, pattern: str) -> "re.Match[str]":
        """Wait until a line matches."""
        wait_until(lambda: re.search(pattern, self.printed()), f"{pattern!r} in {self.log}")
        found = re.search(pattern, self.printed())
        assert found
        return found

    def ctrl_c(self) -> int:
        """Press Ctrl-C and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End the process as a power cut would."""
        self.process.kill()
        self.process.wait(PATIENCE)


@contextmanager
def lesson_server(
    folder: Path, name: str | Path, port: int, env: dict[str, str] | None = None
) -> Iterator[RunningLesson]:
    """Run a server lesson; at the end see that Ctrl-C stops it and that it never complained."""
    log = folder / f"{Path(name).stem}-{len(list(folder.iterdir()))}.log"
    server = RunningLesson(log, name, {"PORT": str(port)} | (env or {}))
    try:
        server.says(rf"Listening on ws://\S+:{port} ")
        yield server
        if server.process.poll() is None:
            assert server.ctrl_c() == 0
            assert server.printed().rstrip().endswith("Stopped.")
        assert "Traceback" not in server.printed()
        assert "Task " not in server.printed()  # "Task exception was never retrieved" and its kin
    finally:
        if server.process.poll() is None:
            server.kill()


def raw_websocket(port: int) -> socket.socket:
    """Do the opening handshake by hand; then nothing more is sent unless the test sends it."""
    wire = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    key = base64.b64encode(os.urandom(16)).decode()
    wire.sendall(
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):  # byte by byte: what follows is for the test
        answer += wire.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return wire


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame, masked with zeros."""
    if len(payload) < 126:
        length = bytes([0x80 | len(payload)])
    elif len(payload) < 2**16:
        length = b"\xfe" + struct.pack(">H", len(payload))
    else:
        length = b"\xff" + struct.pack(">Q", len(payload))
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


def vanish(wire: socket.socket) -> None:
    """Drop a connection with a reset, as a crashing program does."""
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


def flood_until_stuck(wire: socket.socket) -> None:
    """Send and never read, until the other side can take no more."""
    wire.settimeout(1)
    data = frame(2, bytes(100_000))
    try:
        for _ in range(1000):
            wire.sendall(data)
    except TimeoutError:
        return
    raise AssertionError("100 MB were taken though nothing was read")


@contextmanager
def slow_line(port: int, delay: float) -> Iterator[int]:
    """Run a TCP proxy to a port; each byte takes so many seconds longer in each direction."""
    listener = socket.create_server(("127.0.0.1", 0))
    sockets = [listener]

    def carry(source: socket.socket, target: socket.socket) -> None:
        parcels: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def deliver() -> None:
            while True:
                due, data = parcels.get()
                time.sleep(max(0.0, due - time.monotonic()))
                with suppress(OSError):  # the receiver has gone: deliver to nobody
                    target.sendall(data) if data else target.shutdown(socket.SHUT_WR)
                if not data:
                    return

        threading.Thread(target=deliver, daemon=True).start()
        data = b"first"
        while data:
            try:
                data = source.recv(2**16)
            except OSError:
                data = b""
            parcels.put((time.monotonic() + delay, data))

    def accept() -> None:
        while True:
            try:
                near = listener.accept()[0]
            except OSError:
                return  # the test is over
            try:
                far = socket.create_connection(("127.0.0.1", port))
            except OSError:
                near.close()
                continue
            sockets.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield int(listener.getsockname()[1])
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)  # wakes up the thread that waits for it
        each.close()
