"""As little of an HTTP client as is needed, so that what is measured is the pool and not the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

# Bytes of a line: the last event of a stream has a picture in it.
LINE = 4 << 20
# Seconds until an answer has come.
ANSWER_WITHIN = 60.0


class Connection:
    """Requests one after the other, on one TCP connection for as long as it lasts."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=LINE)
        return self._streams

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body.

        Raises OSError or EOFError (asyncio.IncompleteReadError is one) when there was no whole answer in time."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                reader, writer = await self.open()
                head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                status, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
                length = int(headers.get("content-length", 0))
                return status, await reader.readexactly(length)
        except BaseException:
            # Half an answer may be on its way: nothing else can be asked here.
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.split(":", 1) for line in lines if ":" in line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, value in fields}


def as_json(body: bytes) -> dict:
    value = json.loads(body or b"{}")
    return value if isinstance(value, dict) else {}


async def lines_of(port: int, path: str) -> AsyncIterator[int | bytes]:
    """The status of a GET first, then the lines of its body to its end. HTTP/1.0, which has no chunks."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
        status, _ = parse_head(await reader.readuntil(b"\r\n\r\n"))
        yield status
        async for line in reader:
            yield line
    finally:
        writer.close()
