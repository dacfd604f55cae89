"""Checks the compose files where no docker is: they parse, and what they refer to is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
# Seconds after its grace time in which a worker has ended, whatever hangs.
MARGIN = 20


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s", text).group(1))


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
    for name, grace in (("worker", 60), ("queen", 10)):
        if seconds(services[name].get("stop_grace_period", "10s")) <= grace + MARGIN:
            wrong.append(f"{name}: stop_grace_period must be above its grace of {grace} s and {MARGIN} s")
    print("\n".join(wrong) or "compose files: good")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
