"""One client's WebSocket, for sending: events, errors, and a goodbye."""

import asyncio
import json
import secrets
from contextlib import suppress

from fastapi import WebSocket
from fastapi.websockets import WebSocketDisconnect

from service.errors import ClientError, error_body
from service.settings import settings


class Wire:
    """Sends to one client. A client that doesn't read what it is sent counts as gone."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.listener: asyncio.Task[None] | None = None  # stopped when the client is gone
        self.sending = asyncio.Lock()

    async def send(self, kind: str, **fields: object) -> None:
        """Send one event."""
        event = {"type": kind, "event_id": f"event_{secrets.token_hex(8)}", **fields}
        try:
            async with asyncio.timeout(settings.max_send_s), self.sending:
                await self.websocket.send_text(json.dumps(event))
        except (TimeoutError, WebSocketDisconnect, RuntimeError):  # nobody is reading
            if self.listener:
                self.listener.cancel()

    async def send_error(self, error: ClientError, event_id: object = None) -> None:
        """Tell the client about its mistake, and about which of its events it was."""
        body = error_body(str(error), error.code, error.param)["error"]
        known_id = event_id if isinstance(event_id, str) else None  # JSON could be anything
        await self.send("error", error={**body, "event_id": known_id})

    async def refuse(self, close_code: int, code: str, message: str) -> None:
        """Say why, then close: a close frame alone has little room for reasons.

        An application may choose its close codes from 3000 on: RFC 6455, section 7.4.2.
        """
        await self.send_error(ClientError(code, message))
        await self.close(close_code, f"invalid_request_error.{code}")

    async def close(self, close_code: int, reason: str = "") -> None:
        """Say goodbye, and don't wait for long: a client that reads nothing would never answer."""
        with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(settings.max_close_s):
                await self.websocket.close(close_code, reason)
