"""Other echo servers, to compare with: python echo_peers.py websockets|aiohttp|tcp PORT."""

import asyncio
import sys

from aiohttp import WSMsgType, web
from websockets.asyncio.server import ServerConnection, serve

kind, port = sys.argv[1], int(sys.argv[2])


async def websockets_echo() -> None:
    """The echo server of the websockets documentation: its defaults, and nothing else."""

    async def echo(websocket: ServerConnection) -> None:
        async for message in websocket:
            await websocket.send(message)

    async with serve(echo, "127.0.0.1", port) as server:
        print("Listening", flush=True)
        await server.serve_forever()


async def aiohttp_echo() -> None:
    """The same with aiohttp, its defaults as well."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        async for message in websocket:
            if message.type == WSMsgType.TEXT:
                await websocket.send_str(message.data)
            elif message.type == WSMsgType.BINARY:
                await websocket.send_bytes(message.data)
        return websocket

    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("Listening", flush=True)
    await asyncio.Event().wait()


async def tcp_echo() -> None:
    """The floor: bytes go back as they come, without any protocol."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", port) as server:
        print("Listening", flush=True)
        await server.serve_forever()


asyncio.run({"websockets": websockets_echo, "aiohttp": aiohttp_echo, "tcp": tcp_echo}[kind]())
