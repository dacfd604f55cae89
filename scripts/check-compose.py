"""Checks the compose files where no docker is: they parse, and what they refer to is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
# Seconds after its grace time in which a worker has ended, whatever hangs.
MARGIN = 20


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s", text).group(1))


def nats_users(services: dict[str, Any]) -> list[str]:
    """What is wrong with how NATS is started, and with how the others sign in to it."""
    wrong, nats = [], services["nats"]
    conf = (ROOT / "deploy/nats.conf").read_text()
    inside = nats["command"][nats["command"].index("-c") + 1]
    if f"./deploy/nats.conf:{inside}:ro" not in nats["volumes"]:
        wrong.append(f"nats: {inside} is not deploy/nats.conf")
    rules = "\n".join(line.split("#")[0] for line in conf.splitlines())
    # What has quotes around it is no variable: subjects begin with $ too.
    for variable in set(re.findall(r"\$([A-Z_]+)", re.sub(r'"[^"]*"', "", rules))) - set(nats["environment"]):
        wrong.append(f"nats: deploy/nats.conf needs {variable}")
    passwords = dict(re.findall(r"user: (\w+)\s+password: \$(\w+)", rules))
    for name, service in services.items():
        environment = service.get("environment", {})
        if "NATS_URL" not in environment:
            continue
        user = environment.get("NATS_USER")
        if user not in passwords:
            wrong.append(f"{name}: deploy/nats.conf has no user {user}")
        elif environment.get("NATS_PASSWORD") != nats["environment"].get(passwords[user]):
            wrong.append(f"{name}: NATS has another password for {user}")
        if environment.get("NATS_INBOX_PREFIX") != f"_INBOX.{user}":
            wrong.append(f"{name}: the inboxes of {user} begin with _INBOX.{user}")
    for variable, value in nats["environment"].items():
        default = re.fullmatch(r"\$\{" + variable + r":-([A-Za-z][A-Za-z0-9]*)\}", value)
        if variable.endswith("_PASSWORD") and not default:
            wrong.append(f"nats: {variable} must have a default of letters and digits, which the server reads as one")
    return wrong


def main() -> int:
    base = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    cuda = yaml.safe_load((ROOT / "docker-compose.cuda.yml").read_text())
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    services, wrong = base["services"], []
    for file, listed in (("docker-compose.yml", services), ("docker-compose.cuda.yml", cuda["services"])):
        for name, service in listed.items():
            if name not in services:
                wrong.append(f"{file}: {name} overrides nothing")
            if "build" in service and service["build"]["target"] not in stages:
                wrong.append(f"{file}: {name}: the Dockerfile has no stage {service['build']['target']}")
    for name, service in services.items():
        if ("image" in service) == ("build" in service):
            wrong.append(f"{name}: one of image and build is needed")
        for other, on in service.get("depends_on", {}).items():
            if on["condition"] == "service_healthy" and "healthcheck" not in services.get(other, {}):
                wrong.append(f"{name}: waits for the health of {other}, which has no check")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if re.fullmatch(r"\w+", source) and source not in base["volumes"]:
                wrong.append(f"{name}: there is no volume {source}")
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                wrong.append(f"{name}: {port} is open to others, and the passwords are known")
    wrong += nats_users(services)
    for name, grace in (("worker", 60), ("queen", 10)):
        if seconds(services[name].get("stop_grace_period", "10s")) <= grace + MARGIN:
            wrong.append(f"{name}: stop_grace_period must be above its grace of {grace} s and {MARGIN} s")
    print("\n".join(wrong) or "compose files: good")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
