"""Clients of streams, against a server that says what a test wants: `python -m unittest` in this folder."""

from __future__ import annotations

import asyncio
import json
import unittest

import http1
from readers import Readers


def stream(*events: tuple[int, str]) -> bytes:
    told = "".join(f"id: {seq}\ndata: {json.dumps(dict(type=kind, seq=seq))}\n\n" for seq, kind in events)
    return f"HTTP/1.0 200 OK\r\n\r\n: keep-alive\n\n{told}data: [DONE]\n\n".encode()


GOOD = stream((0, "accepted"), (3, "progress"), (4, "complete"))
REFUSED = b"HTTP/1.0 503 Service Unavailable\r\nretry-after: 1\r\n\r\n"


class Server:
    """Answers each connection by the next of these answers, and closes it."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split()[1])
        writer.write(self._answers.pop(0))
        await writer.drain()
        writer.close()


class Streams(unittest.IsolatedAsyncioTestCase):
    async def read(self, *answers: bytes) -> Readers:
        """A reader of one job after it has had these answers."""
        async with Server(*answers) as server:
            readers = Readers(server.port, 1, lambda _job: len(server.asked) == len(answers) and not readers.following)
            readers.start()
            readers.offer("a")
            async with asyncio.timeout(20):
                while len(server.asked) < len(answers) or readers.following:
                    await asyncio.sleep(0.01)
            readers.check()
            await readers.stop()
            self.assertEqual(server.asked, ["/v1/jobs/a/stream"] * len(answers))
        self.assertEqual(readers.open, 0)
        return readers

    async def test_a_stream_that_ends_well_is_read_to_its_end(self) -> None:
        readers = await self.read(GOOD)
        self.assertEqual((readers.opened, readers.read_to_end, readers.events, readers.complaints), (1, 1, 3, []))

    async def test_a_stream_that_was_refused_is_counted_and_asked_for_again(self) -> None:
        readers = await self.read(REFUSED, GOOD)
        self.assertEqual((readers.refused, readers.opened, readers.read_to_end, readers.complaints), (1, 1, 1, []))

    async def test_a_stream_without_its_end_or_out_of_order_is_told(self) -> None:
        for events in (((0, "accepted"),), ((1, "accepted"), (0, "complete")), ((0, "complete"), (1, "complete"))):
            readers = await self.read(stream(*events))
            self.assertEqual(len(readers.complaints), 1, events)
            self.assertIn("a: its stream had the events", readers.complaints[0])

    async def test_a_stream_that_is_cut_before_it_has_begun_is_told(self) -> None:
        readers = await self.read(b"HTTP/1.0 200", GOOD)
        self.assertEqual(len(readers.complaints), 1)
        self.assertIn("a: its stream was cut", readers.complaints[0])

    async def test_a_job_that_is_not_known_is_told(self) -> None:
        readers = await self.read(b"HTTP/1.0 404 Not Found\r\n\r\n")
        self.assertEqual(readers.complaints, ["a: its stream was answered by 404"])

    async def test_a_job_that_has_ended_is_not_followed(self) -> None:
        readers = Readers(0, 1, lambda _job: True)
        readers.start()
        readers.offer("a")
        await asyncio.sleep(0)
        await readers.stop()
        self.assertEqual((readers.opened, readers.complaints), (0, []))


class Answers(unittest.IsolatedAsyncioTestCase):
    async def test_an_answer_is_its_status_and_its_whole_body(self) -> None:
        async with Server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as server:
            connection = http1.Connection(server.port)
            self.addCleanup(connection.close)
            self.assertEqual(await connection.ask("GET", "/health"), (200, b"{}"))

    async def test_half_an_answer_is_none(self) -> None:
        async with Server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}") as server:
            connection = http1.Connection(server.port)
            self.addCleanup(connection.close)
            with self.assertRaises(EOFError):
                await connection.ask("GET", "/health")


if __name__ == "__main__":
    unittest.main()
