"""What queen's doors cost, with a model that takes no time: requests a second and p99 under load, of POST /v1/jobs, which is
answered when the job is stored, and of calls through each door, which are answered with the picture. Then, with a model that
takes long, the memory of queen for each stream of events that is open and silent.

    SD_WORKER=target/release/sd-worker-cpu python tests/wire/door_cost.py

Needs wrk (apt install wrk). Queen, a worker and nats-server run on the same machine, over loopback.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from urllib.parse import urlsplit

import pool

MODEL = "shapes=sim://?step_ms=0&size=64"
JOB = {"operation": "image_generation", "prompt": "a", "steps": 1, "width": 64, "height": 64}
SECONDS = 10
CONNECTIONS = 32
STREAMS = 1000
SLOW = "shapes=sim://?step_ms=60000&size=64"
SETTLES_IN = 5.0  # seconds until what a burst of requests took is given back
NO_LIMITS = ("--rate-limit", "0", "--request-limit", "0")


def under_load(address: str, path: str, body: str) -> str:
    """A row of what wrk says of POSTs over `CONNECTIONS` connections."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method = 'POST'\nwrk.headers['content-type'] = 'application/json'\nwrk.body = [[{body}]]\n")
        script.flush()
        wrk = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{SECONDS}s", "--latency", "-s", script.name]
        said = subprocess.run([*wrk, f"{address}{path}"], check=True, capture_output=True, text=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    half, most = (re.search(rf"{share}%\s+(\S+)", said) for share in (50, 99))
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    assert rate and half and most, said
    return f"| POST {path} | {float(rate[1]):,.0f} | {half[1]} | {most[1]} | {bad[1] if bad else 0} |"


def resident(address: str) -> int:
    """Bytes of queen's memory, by its own metrics."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        text = answer.read().decode()
    found = re.search(r"^process_resident_memory_bytes (\d+)$", text, re.MULTILINE)
    assert found, text
    return int(found[1])


def of_streams(address: str) -> str:
    """What queen's memory grows by with a stream for each of so many jobs that wait: the jobs are there before."""
    waiting = urlsplit(address)
    assert waiting.hostname
    posts = http.client.HTTPConnection(waiting.hostname, waiting.port)
    for number in range(STREAMS):
        posts.request("POST", "/v1/jobs", json.dumps({**JOB, "model": "shapes", "job_id": f"j{number}"}))
        answer = posts.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
    with contextlib.ExitStack() as open_streams:
        time.sleep(SETTLES_IN)
        before = resident(address)
        for number in range(STREAMS):
            stream = http.client.HTTPConnection(waiting.hostname, waiting.port)
            open_streams.callback(stream.close)
            stream.request("GET", f"/v1/jobs/j{number}/stream")
            answer = stream.getresponse()
            assert answer.status == 200, answer.read()
        time.sleep(SETTLES_IN)
        after = resident(address)
    each = (after - before) / STREAMS / 1024
    return f"{STREAMS} streams: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB with them, {each:.1f} KiB each"


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt install wrk")
    print(f"| {CONNECTIONS} connections, {SECONDS} s | a second | p50 | p99 | not taken |\n|---|---|---|---|---|")
    for path, body in (
        ("/v1/jobs", JOB),
        ("/v1/images/generations", {"prompt": "a", "steps": 1, "size": "64x64"}),
        ("/sdapi/v1/txt2img", {"prompt": "a", "steps": 1, "width": 64, "height": 64}),
    ):
        # A pool for each: the jobs of the first wait longer than it takes.
        with pool.queen(MODEL, arguments=NO_LIMITS) as address:
            print(under_load(address, path, json.dumps(body)), flush=True)
    with pool.queen(SLOW, arguments=NO_LIMITS) as address:
        print(of_streams(address))


if __name__ == "__main__":
    main()
