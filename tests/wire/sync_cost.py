"""What it costs to have every message on the disk before it is acknowledged (`sync_interval: always`, from 2.10 on).

    NATS_SERVER=... python tests/wire/sync_cost.py

Prints messages of 250 bytes a second, as an event of a job has, into a stream on one server: one after the other, and 400
at a time; with the server's own interval and with `always`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import nats

import pool

BYTES = 250
ALONE = 500
TOGETHER = 400
ROUNDS = 10


async def measure(port: int) -> tuple[float, float]:
    """Messages a second, one after the other and together."""
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    stream = client.jetstream()
    await stream.add_stream(name="EVENTS", subjects=["events.*"])
    body = b"x" * BYTES
    start = time.perf_counter()
    for number in range(ALONE):
        await stream.publish(f"events.{number % 100}", body)
    alone = ALONE / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(ROUNDS):
        await asyncio.gather(*(stream.publish(f"events.{number}", body, timeout=60) for number in range(TOGETHER)))
    together = ROUNDS * TOGETHER / (time.perf_counter() - start)
    await client.close()
    return alone, together


def main() -> None:
    print("| sync_interval | one after the other | 400 at a time |\n|---|---|---|")
    for name, setting in (("default", ""), ("always", ", sync_interval: always")):
        with tempfile.TemporaryDirectory() as folder:
            temp, port = Path(folder), pool.free_port()
            conf = temp / "nats.conf"
            conf.write_text(f'jetstream {{ store_dir: "{temp / "js"}"{setting} }}\n')
            command = [pool.nats_server(), "-c", str(conf), "-a", "127.0.0.1", "-p", str(port)]
            with pool.running(command, temp / "log") as process:
                pool.wait_until_answering(port, process, temp / "log")
                alone, together = asyncio.run(measure(port))
        print(f"| {name} | {alone:,.0f} | {together:,.0f} |")


if __name__ == "__main__":
    main()
