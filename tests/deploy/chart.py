"""The chart of deploy/helm, rendered by Helm's own library, and its containers as command lines of this machine."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart

import pool

CHART = pool.ROOT / "deploy/helm/rbee"
RELEASE, NAMESPACE = "pool", "draw"
# What a pool of every kind of worker says.
VALUES: dict[str, Any] = {
    "images": {"prefix": "registry.example/rbee/"},
    "pools": [
        {
            "name": "shapes",
            "device": "cpu",
            "models": [{"name": "tiny.shapes", "source": "/models/tiny-shapes"}],
            "slots": 2,
            "grace": 5,
            "scaling": {"min": 0, "max": 8, "jobsPerWorker": 2, "source": "both"},
        },
        {
            "name": "sdxl",
            "device": "cuda",
            "models": [{"name": "sdxl", "source": "org/sdxl@main"}, {"name": "other", "source": "/models/other"}],
            "gpus": 1,
            "replicas": 2,
            "resources": {"limits": {"memory": "24Gi"}},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "env": {"SD_DTYPE": "f16"},
        },
    ],
    "modelCache": {"source": "s3://models/sd", "hostPath": "/var/lib/rbee/models"},
    "hub": {"tokenSecret": "hub"},
    "store": {"url": "s3://pictures/pool", "endpoint": "http://s3.example:9000", "secret": "store"},
    "queen": {"tokensSecret": "tokens", "publicUrl": "https://pool.example", "env": {"QUEEN_RATE_LIMIT": 2}},
    "streams": {"replicas": 3},
    "nats": {"replicas": 3},
    "prometheus": {"address": "http://prometheus.monitoring:9090", "selector": 'namespace="draw"'},
    "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"web": "yes"}}}]},
}


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Both; where a key is in both, `more` wins, and folders of keys are merged."""
    both = dict(values)
    for key, value in more.items():
        inside = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = merged(both[key], value) if inside else value
    return both


def render(values: dict[str, Any], chart: Path = CHART) -> list[dict[str, Any]]:
    """Every object. Refused values raise."""
    with Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        files = loaded.render(values, name=RELEASE, namespace=NAMESPACE)
    texts = [text for name, text in files.items() if not name.endswith("NOTES.txt")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of that kind and name, without the release's."""
    found = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, f"{RELEASE}-{name}")]
    assert len(found) == 1, f"{kind} {name}: {[(each['kind'], each['metadata']['name']) for each in objects]}"
    return found[0]


def pod(objects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """What the Deployment or StatefulSet of that name makes pods of."""
    kind = "StatefulSet" if name == "nats" else "Deployment"
    return named(objects, kind, name)["spec"]["template"]["spec"]


def environment(container: dict[str, Any], secrets: dict[str, dict[str, str]], pod_name: str) -> dict[str, str]:
    """The variables of a container as the kubelet would set them, and of those here no more than an image has."""
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    for entry in container["env"]:
        if "value" in entry:
            variables[entry["name"]] = entry["value"]
        elif "secretKeyRef" in entry["valueFrom"]:
            reference = entry["valueFrom"]["secretKeyRef"]
            variables[entry["name"]] = secrets[reference["name"]][reference["key"]]
        else:
            assert entry["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
            variables[entry["name"]] = pod_name
    return variables


def command(container: dict[str, Any], entrypoint: list[str]) -> list[str]:
    """The command line of a container, of whose image this is the entry point."""
    return [*container.get("command", entrypoint), *container.get("args", [])]


def key() -> str:
    """A password as the secrets of NATS must have them: a letter, then letters and digits."""
    return "p" + base64.b16encode(os.urandom(12)).decode()
