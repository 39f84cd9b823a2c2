"""A client that breaks the rules: it writes HTTP and WebSocket frames byte by byte, as it likes."""

import json
import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

TEXT, CONTINUED, PING = 0x1, 0x0, 0x9
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    "GET /v1/realtime?intent=transcription HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
).encode()


def frame(opcode: int, data: bytes, *, is_last: bool = True, is_compressed: bool = False) -> bytes:
    """Return a WebSocket frame of a client, with a mask that changes nothing."""
    first = opcode | (0x80 if is_last else 0) | (0x40 if is_compressed else 0)
    if len(data) < 126:
        head = struct.pack("!BB", first, 0x80 | len(data))
    elif len(data) < 2**16:
        head = struct.pack("!BBH", first, 0x80 | 126, len(data))
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, len(data))
    return head + bytes(4) + data


def event(kind: str, **fields: object) -> bytes:
    """Return an event of a client as a frame."""
    return frame(TEXT, json.dumps({"type": kind, **fields}).encode())


class Rude:
    """A TCP connection to the service. It reads only when it is told to."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", port))
        self.got = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_what_is_taken(self, data: bytes) -> None:
        """Send, though the service may hang up before the end."""
        with suppress(ConnectionError):
            self.socket.sendall(data)

    def open(self) -> None:
        """Shake hands, and wait for the session."""
        self.send(HANDSHAKE + b"\r\n")
        while b"session.created" not in self.got:
            self.got += self.socket.recv(2**16)

    def flood(self, data: bytes, seconds: float, pause: float = 0) -> int:
        """Send the same again and again; return how many bytes were taken before the end."""
        stop, sent = threading.Event(), 0
        timer = threading.Timer(seconds, stop.set)
        timer.start()
        self.socket.settimeout(0.2)
        try:
            while not stop.wait(pause):
                rest = memoryview(data)
                while rest and not stop.is_set():
                    try:
                        count = self.socket.send(rest)
                    except TimeoutError:
                        continue
                    sent, rest = sent + count, rest[count:]
        except OSError:  # it hung up
            pass
        finally:
            timer.cancel()
            self.socket.settimeout(30)
        return sent

    def read_on(self) -> None:
        """Read from now on, and forget what comes."""

        def read() -> None:
            try:
                while self.socket.recv(2**20):
                    pass
            except OSError:
                pass

        threading.Thread(target=read, daemon=True).start()

    def rest(self, seconds: float = 30) -> bytes:
        """Read until the service hangs up, and return it all."""
        self.socket.settimeout(seconds)
        try:
            while data := self.socket.recv(2**16):
                self.got += data
        except ConnectionError:
            pass
        return self.got

    def is_hung_up(self, seconds: float = 30) -> bool:
        try:
            self.rest(seconds)
        except TimeoutError:
            return False
        return True


def closed_with(answer: bytes) -> tuple[int, str]:
    """Return the code and the reason of the close frame at the end of what came."""
    begin = answer.rindex(b"\x88")
    length = answer[begin + 1]
    code = int.from_bytes(answer[begin + 2 : begin + 4], "big")
    return code, answer[begin + 4 : begin + 2 + length].decode()


def post(port: int, headers: bytes, body: bytes = b"") -> tuple[int, Any]:
    """POST to the transcriptions with headers of one's own; return the status and what came."""
    start = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    with Rude(port) as rude:
        rude.send(start + headers + b"\r\n" + body)
        head, _, text = rude.rest().partition(b"\r\n\r\n")
    is_json = b"content-type: application/json" in head
    return int(head.split()[1]), json.loads(text) if is_json else text
