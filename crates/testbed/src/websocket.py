"""A WebSocket server and client of the library `websockets`, for tests.

    websocket.py serve PORT NAME    prints a line when it listens; says who it is and what it was asked
                                    for, then echoes; closes with code 4000 when it is told `close`
    websocket.py call               one connection; a step for each line of JSON on standard input

A step is {"open": URL, "to": "HOST:PORT", "headers": {..}}, {"send": TEXT}, {"send_bytes": N}, {"recv": true},
{"ping": true} or {"close": true}; its answer is a line of JSON: `text`, `bytes` and `sha256`, `ok`,
`status` of an answer that is no 101, `closed` (the code of the end).
"""

import asyncio
import hashlib
import json
import sys

import websockets


async def serve(port, name):
    async def echo(socket):
        asked = {key.lower(): value for key, value in socket.request_headers.items()}
        await socket.send(json.dumps({"name": name, "path": socket.path, "headers": asked}))
        async for message in socket:
            if message == "close":
                await socket.close(4000, "as told")
                return
            await socket.send(message)

    async with websockets.serve(echo, None, port, max_size=None, compression=None):
        print("listening", flush=True)
        await asyncio.Future()


async def do(socket, step):
    if "send" in step:
        await socket.send(step["send"])
        return {"ok": True}
    if "send_bytes" in step:
        sent = bytes(i % 251 for i in range(step["send_bytes"]))
        await socket.send(sent)
        return {"ok": True, "sha256": hashlib.sha256(sent).hexdigest()}
    if "ping" in step:
        await (await socket.ping())
        return {"ok": True}
    if "close" in step:
        await socket.close()
        return {"closed": socket.close_code}
    message = await socket.recv()
    if isinstance(message, bytes):
        return {"bytes": len(message), "sha256": hashlib.sha256(message).hexdigest()}
    return {"text": message}


async def call():
    loop = asyncio.get_running_loop()
    socket = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        step = json.loads(line)
        try:
            if "open" in step:
                host, port = step["to"].rsplit(":", 1)
                socket = await websockets.connect(
                    step["open"],
                    host=host,
                    port=int(port),
                    extra_headers=step.get("headers", {}),
                    max_size=None,
                    compression=None,
                )
                answer = {"ok": True}
            else:
                answer = await asyncio.wait_for(do(socket, step), 60)
        except websockets.InvalidStatusCode as error:
            answer = {"status": error.status_code}
        except websockets.ConnectionClosed as error:
            answer = {"closed": error.rcvd.code if error.rcvd else None}
        except (OSError, asyncio.TimeoutError, websockets.InvalidMessage) as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if sys.argv[1] == "serve":
    asyncio.run(serve(int(sys.argv[2]), sys.argv[3]))
else:
    asyncio.run(call())
