"""What queen's doors cost, with a model that takes no time: requests a second and p99 under load, of POST /v1/jobs, which is
answered when the job is stored, and of calls through each door, which are answered with the picture.

    SD_WORKER=target/release/sd-worker-cpu python tests/wire/door_cost.py

Needs wrk (apt install wrk). Queen, a worker and nats-server run on the same machine, over loopback.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile

import pool

MODEL = "shapes=sim://?step_ms=0&size=64"
JOB = {"operation": "image_generation", "prompt": "a", "steps": 1, "width": 64, "height": 64}
SECONDS = 10
CONNECTIONS = 32
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


if __name__ == "__main__":
    main()
