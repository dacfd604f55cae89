"""Draws docs/img/metrics.png: a pool of simulated workers, a real Prometheus that reads it, and a plot of what it answers to
the queries of deploy/grafana/pool.json.

    PYTHONPATH=tests/wire python3 tools/metrics/picture.py --out docs/img/metrics.png

It needs the programs of a debug build, nats-server, prometheus, and matplotlib (pip) beside tests/wire/requirements.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from pool import ROOT, free_port, nats_server, queen_binary, running, wait_until_answering, worker_binary

PANELS = [
    "Jobs that wait, by model",
    "How long the oldest has waited",
    "How long jobs waited for a worker",
    "Jobs that ended, by outcome",
    "Slots in use",
    "Where a job's time goes",
    "Step",
    "Attempts that failed, by code",
    "Requests, by status",
]
SCRAPE = 2  # seconds
RATE = "20s"
MODELS = {"photo": "sim://?step_ms=120&size=64", "sketch": "sim://?step_ms=40&size=64&fail=non_finite&fail_prompt=broken"}


def post(address: str, model: str, prompt: str, steps: int) -> None:
    body = {"operation": "image_generation", "model": model, "prompt": prompt, "steps": steps}
    request = urllib.request.Request(
        f"{address}/v1/jobs", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request).read()


def load(address: str, seconds: float, rate: float, dice: random.Random) -> None:
    """So many jobs a second; every fifteenth fails each time that it is tried."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        model = dice.choices(["photo", "sketch"], [1, 2])[0]
        prompt = "broken" if model == "sketch" and dice.random() < 0.1 else "a"
        post(address, model, prompt, dice.choice([4, 8, 12]))
        time.sleep(dice.expovariate(rate))


def series(prometheus: str, query: str, begin: float, end: float) -> list[dict]:
    query = query.replace("$__rate_interval", RATE).replace("$model", ".*")
    asked = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": SCRAPE})
    answer = json.load(urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{asked}"))
    return answer["data"]["result"]


def label(form: str, metric: dict[str, str]) -> str:
    for name, value in metric.items():
        form = form.replace("{{" + name + "}}", value)
    return re.sub(r"{{\w+}}", "", form).strip()


def plot(prometheus: str, begin: float, end: float, names: dict[str, str], out: Path) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/pool.json").read_text())
    panels = {panel["title"]: panel for panel in dashboard["panels"]}
    figure, axes = plt.subplots(3, 3, figsize=(15, 9), sharex=True)
    for title, axis in zip(PANELS, axes.flat):
        panel = panels[title]
        for target in panel["targets"]:
            for one in series(prometheus, target["expr"], begin, end):
                points = [(float(at) - begin, float(value)) for at, value in one["values"]]
                metric = {name: names.get(value, value) for name, value in one["metric"].items()}
                axis.plot(*zip(*points), label=label(target["legendFormat"], metric), linewidth=1.2)
        unit = panel["fieldConfig"]["defaults"]["unit"]
        axis.set_title(f"{title} ({unit})" if unit != "short" else title, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper left")
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    figure.suptitle("Prometheus' answers to queries of deploy/grafana/pool.json (a plot, not Grafana)", fontsize=11)
    figure.tight_layout()
    figure.savefig(out, dpi=80)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--minutes", type=float, default=5)
    asked = arguments.parse_args()
    part = asked.minutes * 60 / 5
    dice = random.Random(7)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        temp = Path(folder)
        nats, front, first, second, read = (free_port() for _ in range(5))
        url, store = f"nats://127.0.0.1:{nats}", str(temp / "store")
        log = temp / "nats.log"
        server = [nats_server(), "-a", "127.0.0.1", "-p", str(nats), "-js", "-sd", str(temp / "nats")]
        wait_until_answering(nats, stack.enter_context(running(server, log)), log)
        shared = ["--nats-url", url, "--store-url", store]
        log = temp / "queen.log"
        queen = [str(queen_binary()), "--listen", f"127.0.0.1:{front}", *shared, "--models", ",".join(MODELS)]
        wait_until_answering(front, stack.enter_context(running(queen, log)), log)

        def worker(port: int):
            models = [word for name, model in MODELS.items() for word in ("--model", f"{name}={model}")]
            command = [str(worker_binary()), *models, *shared, "--slots", "2", "--grace", "5s"]
            return running([*command, "--http", f"127.0.0.1:{port}"], temp / f"worker-{port}.log")

        stack.enter_context(worker(first))
        other = stack.enter_context(worker(second))
        targets = [f"127.0.0.1:{port}" for port in (front, first, second)]
        jobs = [{"job_name": "pool", "static_configs": [{"targets": targets}]}]
        configuration = {"global": {"scrape_interval": f"{SCRAPE}s"}, "scrape_configs": jobs}
        (temp / "prometheus.yml").write_text(json.dumps(configuration))
        prometheus = ["prometheus", f"--config.file={temp}/prometheus.yml", f"--storage.tsdb.path={temp}/data"]
        log = temp / "prometheus.log"
        reads = stack.enter_context(running([*prometheus, f"--web.listen-address=127.0.0.1:{read}"], log))
        wait_until_answering(read, reads, log)
        time.sleep(10)
        begin, address = time.time(), f"http://127.0.0.1:{front}"
        load(address, part, 2.0, dice)
        load(address, part, 7.0, dice)
        other.kill()
        load(address, part, 3.0, dice)
        stack.enter_context(worker(second))
        load(address, 2 * part, 1.5, dice)
        names = dict(zip(targets, ("queen", "worker 1", "worker 2")))
        plot(f"http://127.0.0.1:{read}", begin, time.time(), names, asked.out)


if __name__ == "__main__":
    main()
