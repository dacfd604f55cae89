"""What the chart runs, without containers: NATS, the init container, queen and a worker with exactly their command
lines, variables and users; their probes; a job that goes through; what KEDA's scaler reads meanwhile. Only host names,
ports and folders are those of this machine.

Run by scripts/test; by hand: `python -m unittest test_containers` in tests/deploy, with tests/wire in PYTHONPATH.
NATS_SERVER names another server than the one on PATH.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pool
from chart import VALUES, command, environment, key, merged, named, pod, render

# One server; what KEDA reads from it and from Prometheus.
ONE = merged(VALUES, {"nats": {"replicas": 1}, "streams": {"replicas": 1}, "queen": {"publicUrl": ""}})
ONE["pools"] = VALUES["pools"][:1]


def ask(url: str, token: str = "", body: dict[str, Any] | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=pool.PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def until(what: str, holds: Any, log: Path | None = None) -> Any:
    """Waits for something that is true, and says what it was."""
    end = time.monotonic() + pool.PATIENCE
    while not (seen := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"not so after {pool.PATIENCE} s: {what}\n{log.read_text()[-2000:] if log else ''}")
        time.sleep(0.1)
    return seen


class Containers(unittest.TestCase):
    def setUp(self) -> None:
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.objects = render(ONE)
        self.secrets: dict[str, dict[str, str]] = {
            "rbee-nats": {user: key() for user in ("worker", "queen", "operator", "client")},
            "store": {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret"},
            "hub": {"HF_TOKEN": "hf"},
        }
        # What has another name or place on this machine, longer ones first.
        self.here: dict[str, str] = {}

    def translated(self, text: str) -> str:
        every = "|".join(re.escape(there) for there in sorted(self.here, key=len, reverse=True))
        return re.sub(every, lambda found: self.here[found.group()], text)

    def start(self, container: dict[str, Any], entrypoint: list[str], program: Path | str, **instead: str) -> Any:
        """A container as a process, until the end of the test: its process and log."""
        words = [self.translated(word) for word in command(container, entrypoint)]
        variables = {
            name: self.translated(value) for name, value in environment(container, self.secrets, "pool-0").items()
        }
        log = self.folder / f"{container['name']}.log"
        running = pool.running([str(program), *words[1:]], log, variables | instead)
        return self.stack.enter_context(running), log

    def probe(self, container: dict[str, Any], port: int, log: Path) -> None:
        """Every probe is answered: the first is waited for."""
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            url = f"http://127.0.0.1:{port}{container[name]['httpGet']['path']}"
            until(f"{url} answers", lambda url=url: ask(url)[0] == 200, log)

    def scrape(self, queen: int, token: str) -> None:
        """A Prometheus that asks queen every second, under the labels that a cluster's would have."""
        address = pool.free_port()
        self.here["http://prometheus.monitoring:9090"] = f"http://127.0.0.1:{address}"
        job = {
            "job_name": "queen",
            "bearer_token": token,
            "static_configs": [{"targets": [f"127.0.0.1:{queen}"], "labels": {"namespace": "draw"}}],
        }
        told = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
        (self.folder / "prometheus.yml").write_text(json.dumps(told))
        command = [os.environ.get("PROMETHEUS", "prometheus"), f"--config.file={self.folder}/prometheus.yml"]
        command += [f"--storage.tsdb.path={self.folder}/tsdb", f"--web.listen-address=127.0.0.1:{address}"]
        log = self.folder / "prometheus.log"
        pool.wait_until_answering(address, self.stack.enter_context(pool.running(command, log)), log)

    def wanted(self, scaled: dict[str, Any], of: str = "") -> int:
        """The workers that KEDA would have of its triggers, by what NATS and Prometheus say now; by one kind of trigger
        alone where `of` names it."""
        lags = {}
        for trigger in scaled["spec"]["triggers"]:
            data = {name: self.translated(value) for name, value in trigger["metadata"].items()}
            if of and trigger["type"] != of:
                lags[trigger["name"]] = 0
                continue
            if trigger["type"] == "prometheus":
                status, text = ask(f"{data['serverAddress']}/api/v1/query?query={quote(data['query'])}")
                self.assertEqual(status, 200, text)
                lags[trigger["name"]] = float(json.loads(text)["data"]["result"][0]["value"][1])
                continue
            url = f"http://{data['natsServerMonitoringEndpoint']}/jsz?acc={data['account']}&consumers=true&config=true"
            status, text = ask(url)
            self.assertEqual(status, 200, text)
            streams = json.loads(text)["account_details"][0].get("stream_detail", [])
            stream = next(each for each in streams if each["name"] == data["stream"])
            consumer = next(
                (each for each in stream.get("consumer_detail", []) if each["name"] == data["consumer"]), None
            )
            if consumer is None:
                return -1  # An error to KEDA.
            lags[trigger["name"]] = consumer["num_pending"] + consumer["num_ack_pending"]
        modifiers = scaled["spec"]["advanced"]["scalingModifiers"]
        jobs = eval(modifiers["formula"], {"max": max}, lags)  # Our own template wrote it.
        if jobs <= float(modifiers["activationTarget"]):
            return scaled["spec"]["minReplicaCount"]
        workers = math.ceil(jobs / float(modifiers["target"]))
        return min(max(workers, scaled["spec"]["minReplicaCount"], 1), scaled["spec"]["maxReplicaCount"])

    def test_a_pool_starts_from_nothing_scales_draws_and_ends(self) -> None:
        clients, monitor, queen_port, worker_port, s3 = (pool.free_port() for _ in range(5))
        models, data = self.folder / "models", self.folder / "s3"
        models.mkdir()
        (data / "pictures").mkdir(parents=True)
        shutil.copytree(pool.ROOT / "models/tiny-shapes", data / "models/sd/tiny-shapes")
        keys = ",".join(self.secrets["store"].values())
        serve = [
            "rclone",
            "serve",
            "s3",
            str(data),
            "--addr",
            f"127.0.0.1:{s3}",
            "--auth-key",
            keys,
            "--vfs-cache-mode",
            "off",
        ]
        process = self.stack.enter_context(pool.running(serve, self.folder / "s3.log"))
        pool.wait_until_answering(s3, process, self.folder / "s3.log")
        self.here = {
            "nats://pool-nats:4222": f"nats://127.0.0.1:{clients}",
            "pool-nats.draw.svc:8222": f"127.0.0.1:{monitor}",
            "/etc/nats/nats.conf": str(self.folder / "nats.conf"),
            "/data": str(self.folder / "nats"),
            "/models/hub": str(self.folder / "hub"),
            "/models": str(models),
            "http://s3.example:9000": f"http://127.0.0.1:{s3}",
            "0.0.0.0:7833": f"127.0.0.1:{queen_port}",
            "0.0.0.0:8080": f"127.0.0.1:{worker_port}",
            "/etc/rbee/tokens": str(self.folder / "tokens"),
            '"/tmp/nats.pid"': f'"{self.folder}/nats.pid"',
        }

        conf = self.translated(named(self.objects, "ConfigMap", "nats")["data"]["nats.conf"])
        conf = conf.replace("0.0.0.0:8222", f"127.0.0.1:{monitor}").replace(
            "port: 4222", f"port: {clients}\nhost: 127.0.0.1"
        )
        (self.folder / "nats.conf").write_text(conf)
        nats = pod(self.objects, "nats")["containers"][0]
        nats_process, log = self.start(nats, [], pool.nats_server())
        self.probe(nats, monitor, log)
        token = pool.new_token("somebody", self.folder / "tokens")

        queen = pod(self.objects, "queen")["containers"][0]
        queen_process, queen_log = self.start(queen, ["queen-rbee"], pool.queen_binary())
        self.probe(queen, queen_port, queen_log)
        self.scrape(queen_port, token)
        scaled = named(self.objects, "ScaledObject", "worker-shapes")
        until("KEDA has consumers to read", lambda: self.wanted(scaled) == 0)
        url = f"http://127.0.0.1:{queen_port}"
        body = {
            "operation": "image_generation",
            "prompt": "a large red circle on a blue background",
            "steps": 1,
            "width": 64,
            "height": 64,
        }
        self.assertEqual(ask(f"{url}/v1/jobs", body=body)[0], 401)
        jobs = []
        # Two jobs a worker, of all capabilities together: 1, 1, 2 workers, and no more than 8.
        for number, workers in enumerate((1, 1, 2)):
            status, text = ask(f"{url}/v1/jobs", token, {**body, "seed": number})
            self.assertEqual(status, 200, text)
            jobs.append(json.loads(text)["job_id"])
            for of in ("nats-jetstream", "prometheus", ""):
                about = f"{workers} workers are wanted by {of or 'both'}"
                until(about, lambda workers=workers, of=of: self.wanted(scaled, of) == workers)

        spec = pod(self.objects, "worker-shapes")
        init = spec["initContainers"][0]
        copying, log = self.start(init, ["rclone"], shutil.which("rclone") or "rclone", HOME=str(self.folder))
        self.assertEqual(copying.wait(pool.PATIENCE), 0, log.read_text())
        self.assertTrue((models / "tiny-shapes/model_index.json").is_file(), log.read_text())
        worker = spec["containers"][0]
        worker_process, worker_log = self.start(worker, ["sd-worker-cpu"], pool.worker_binary())
        self.probe(worker, worker_port, worker_log)

        def ended() -> bool:
            views = [json.loads(ask(f"{url}/v1/jobs/{job}", token)[1]) for job in jobs]
            self.assertFalse([view for view in views if view["status"] == "failed"], views)
            return all(view["status"] == "completed" for view in views)

        until("the jobs end", ended, worker_log)
        until("no worker is wanted", lambda: self.wanted(scaled) == 0)
        for job in jobs:
            self.assertTrue((data / f"pictures/pool/jobs/{job}/result.json").is_file())
        refused = [
            line
            for line in (queen_log.read_text() + worker_log.read_text()).splitlines()
            if "permissions violation" in line.lower()
        ]
        self.assertEqual(refused, [])

        # As the kubelet stops them: what is said first, then SIGTERM.
        for process in (worker_process, queen_process):
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(20), 0)
        before = [self.translated(word) for word in nats["lifecycle"]["preStop"]["exec"]["command"]]
        before = [word.replace("/tmp/nats.pid", str(self.folder / "nats.pid")) for word in before]
        subprocess.run([pool.nats_server(), *before[1:]], check=True)
        nats_process.wait(45)


if __name__ == "__main__":
    unittest.main()
