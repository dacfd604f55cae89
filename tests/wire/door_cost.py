"""What queen's doors cost, with a model that takes no time: requests a second and p99 under load, a call through each door
beside a job through POST /v1/jobs, and what an idle stream keeps.

    SD_WORKER=target/release/sd-worker-cpu python tests/wire/door_cost.py

Needs wrk (apt install wrk). Queen, two workers and nats-server run on the same machine, over loopback. Linux.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pool

MODEL = "shapes=sim://?step_ms=0&size=64"
JOB = {"operation": "image_generation", "prompt": "a", "steps": 1, "width": 64, "height": 64}
SECONDS = 10
CONNECTIONS = 32
CALLS = 300
STREAMS = 1000
NO_LIMITS = ("--rate-limit", "0", "--request-limit", "0", "--max-streams", str(STREAMS + 100))


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


def call(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> bytes:
    connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer
    return answer


def by_job(connection: http.client.HTTPConnection) -> None:
    """As keeper does it: the job, its stream to the end, its picture."""
    job = json.loads(call(connection, "POST", "/v1/jobs", JOB))
    call(connection, "GET", f"{job['sse_url']}?images=0")
    call(connection, "GET", f"/v1/jobs/{job['job_id']}/images/0")


def by_openai(connection: http.client.HTTPConnection) -> None:
    call(connection, "POST", "/v1/images/generations", {"prompt": "a", "steps": 1, "size": "64x64"})


def by_a1111(connection: http.client.HTTPConnection) -> None:
    call(connection, "POST", "/sdapi/v1/txt2img", {"prompt": "a", "steps": 1, "width": 64, "height": 64})


def latency(address: str, ways: dict[str, Callable[[http.client.HTTPConnection], None]]) -> None:
    """One call after the other, the ways in turns, from the request to the picture."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(CALLS):
        for name, way in ways.items():
            start = time.perf_counter()
            way(connection)
            took[name].append((time.perf_counter() - start) * 1000)
    print("\n| to the picture | median, ms | p99, ms |\n|---|---|---|")
    for name, times in took.items():
        print(f"| {name} | {statistics.median(times):.1f} | {statistics.quantiles(times, n=100)[98]:.1f} |")


def resident(process: int) -> int:
    """KiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def idle_streams(address: str, process: int) -> None:
    """What a stream keeps that waits for its job's first event, and one of the fleet."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    print(f"\n| {STREAMS:,} idle streams of | KiB a stream |\n|---|---|")
    waiting = [json.loads(call(connection, "POST", "/v1/jobs", {**JOB, "model": "nobody-s"})) for _ in range(STREAMS)]
    for name, paths in (
        ("a job that waits", [job["sse_url"] for job in waiting]),
        ("the fleet", ["/v1/events?fleet=1"] * STREAMS),
    ):
        before, opened = resident(process), []
        for path in paths:
            stream = http.client.HTTPConnection(urlsplit(address).netloc)
            stream.request("GET", path)
            response = stream.getresponse()
            assert response.status == 200, response.read()
            opened.append((stream, response))
        time.sleep(3)
        print(f"| {name} | {(resident(process) - before) / STREAMS:.1f} |")
        for stream, _ in opened:
            stream.close()
        time.sleep(3)


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt install wrk")
    print(f"| {CONNECTIONS} connections, {SECONDS} s | a second | p50 | p99 | not taken |\n|---|---|---|---|---|")
    with pool.queen(MODEL, arguments=[*NO_LIMITS, "--models", "nobody-s"]) as address:
        for path, body in (
            ("/v1/jobs", JOB),
            ("/v1/images/generations", {"prompt": "a", "steps": 1, "size": "64x64"}),
            ("/sdapi/v1/txt2img", {"prompt": "a", "steps": 1, "width": 64, "height": 64}),
        ):
            print(under_load(address, path, json.dumps(body)), flush=True)
    with pool.queen(MODEL, arguments=[*NO_LIMITS, "--models", "nobody-s"]) as address:
        queen = int(subprocess.run(["pgrep", "-n", "queen-rbee"], check=True, capture_output=True, text=True).stdout)
        rest = resident(queen)
        latency(address, {"POST /v1/jobs": by_job, "OpenAI": by_openai, "A1111": by_a1111})
        idle_streams(address, queen)
        print(f"\nqueen at rest: {rest / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
