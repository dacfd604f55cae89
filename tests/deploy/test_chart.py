"""The chart renders into what two versions of Kubernetes take, and refuses what contradicts itself."""

from __future__ import annotations

import json
import re
import unittest
from typing import Any

import kubernetes_validate
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

import pool
from chart import CHART, VALUES, merged, named, pod, render

# The oldest that Chart.yaml allows, and a new one.
VERSIONS = ("1.30", "1.36")
WORKLOADS = ("queen", "worker-shapes", "worker-sdxl", "nats")
GIVEN = {"nats": {"enabled": False, "url": "tls://elsewhere:4222", "monitoring": "elsewhere:8222", "caSecret": "ca"}}


def pools(**more: Any) -> dict[str, Any]:
    """One pool, different in this."""
    one = {"name": "a", "device": "cpu", "models": [{"name": "a", "source": "/models/a"}]}
    return {"pools": [{**one, **more}]}


# What is said together and cannot be, or is misspelt.
CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "a number of workers, and scaled": pools(replicas=2, scaling={"min": 0, "max": 4}),
    "fewer workers at most than at least": pools(scaling={"min": 5, "max": 4}),
    "a GPU for a worker on the CPU": pools(gpus=1),
    "a worker on a GPU without one": pools(device="cuda"),
    "a device that there is not": pools(device="tpu"),
    "no model": pools(models=[]),
    "a model's name with a comma": pools(models=[{"name": "a,b", "source": "/models/a"}]),
    "a source that is neither a folder of the cache nor of the hub": pools(models=[{"name": "a", "source": "/etc/a"}]),
    "a folder of the cache, and no cache": merged(pools(), {"modelCache": {"hostPath": "", "source": ""}}),
    "images of nobody": {"images": {"prefix": ""}},
    "two caches": {"modelCache": {"hostPath": "/models", "claim": "models"}},
    "a variable that the chart sets": pools(env={"SD_GRACE": "5s"}),
    "a variable in small letters": pools(env={"sd_dtype": "f16"}),
    "a folder as the store of many machines": {"store": {"url": "file:///pictures"}},
    "three copies on one server": {"nats": {"replicas": 1}},
    "five copies on three servers": {"streams": {"replicas": 5}},
    "an authority for the NATS that runs here": {"nats": {"caSecret": "ca"}},
    "two servers": {"nats": {"replicas": 2}},
    "NATS here and elsewhere": {"nats": {"url": "nats://elsewhere:4222"}},
    "NATS nowhere": {"nats": {"enabled": False}},
    "lag of a NATS whose monitoring is not named": merged(GIVEN, {"nats": {"monitoring": ""}}),
    "subjects that the users of NATS have no rights to": {"subjectPrefix": "two"},
    "queen's gauges without a Prometheus": {"prometheus": {"address": ""}},
    "no queen": {"queen": {"replicas": 0}},
    "a key that there is not": {"nats": {"replica": 3}},
}


class Rendered(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.objects = render(VALUES)

    def test_helm_finds_nothing_wrong_and_kubernetes_takes_every_object(self) -> None:
        variants = {
            "everything": VALUES,
            "defaults": {},
            "NATS is given": merged(VALUES, GIVEN),
            "no login, no policy": merged(
                merged(VALUES, GIVEN), {"nats": {"passwordsSecret": ""}, "networkPolicy": {"enabled": False}}
            ),
            "one server": merged(VALUES, {"nats": {"replicas": 1}, "streams": {"replicas": 1}}),
            "a claim, one queen": merged(
                VALUES,
                {"modelCache": {"hostPath": "", "claim": "models"}, "queen": {"replicas": 1, "tokensSecret": ""}},
            ),
            "nobody looks on": merged(VALUES, {"networkPolicy": {"clients": [], "monitoring": []}}),
        }
        seen: set[str] = set()
        for about, values in variants.items():
            with self.subTest(about):
                report = lint(CHART, values, strict=True)
                self.assertEqual(report["errors"], [], report)
                for each in render(values):
                    text = json.dumps(each, sort_keys=True)
                    if each["apiVersion"].startswith("keda.sh/") or text in seen:
                        continue
                    seen.add(text)
                    for version in VERSIONS:
                        kubernetes_validate.validate(each, version, strict=True)

    def test_what_the_documents_show_can_be_installed(self) -> None:
        text = (pool.ROOT / "docs/operate.md").read_text()
        shown = next(block for block in re.findall(r"(?s)```yaml\n(.*?)```", text) if "pools:" in block)
        objects = render(yaml.safe_load(shown))
        self.assertEqual(named(objects, "ScaledObject", "worker-sdxl")["spec"]["minReplicaCount"], 0)

    def test_what_contradicts_itself_is_refused(self) -> None:
        for about, more in CONTRADICTIONS.items():
            with self.subTest(about), self.assertRaises(HelmError):
                render(merged(VALUES, more))
        render(merged(VALUES, GIVEN))
        render(merged(merged(VALUES, GIVEN), {"subjectPrefix": "two.a"}))

    def test_whoever_stops_a_pod_waits_for_longer_than_it_takes(self) -> None:
        for name in WORKLOADS:
            spec = pod(self.objects, name)
            for container in spec["containers"]:
                variables = {entry["name"]: entry.get("value", "") for entry in container["env"]}
                said = variables.get("SD_GRACE") or variables.get("QUEEN_GRACE") or "30s"  # NATS: its lame duck
                grace = int(re.fullmatch(r"(\d+)s", said).group(1))
                before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                after = 0 if name == "queen" else pool.drain_margin()
                self.assertGreater(spec["terminationGracePeriodSeconds"], before + grace + after, name)
        self.assertEqual(pod(self.objects, "worker-shapes")["terminationGracePeriodSeconds"], 5 + 30)
        # Clients are sent to it until its address has gone everywhere.
        self.assertEqual(pod(self.objects, "queen")["containers"][0]["lifecycle"]["preStop"], {"sleep": {"seconds": 5}})

    def test_every_selector_finds_the_pods_that_it_is_for(self) -> None:
        labels = {
            name: named(self.objects, "StatefulSet" if name == "nats" else "Deployment", name)["spec"]["template"][
                "metadata"
            ]["labels"]
            for name in WORKLOADS
        }

        def chosen(selector: dict[str, str]) -> set[str]:
            return {name for name, has in labels.items() if selector.items() <= has.items()}

        for name in WORKLOADS:
            workload = named(self.objects, "StatefulSet" if name == "nats" else "Deployment", name)
            budget = named(self.objects, "PodDisruptionBudget", name)
            for selector in (workload["spec"]["selector"], budget["spec"]["selector"]):
                self.assertEqual(chosen(selector["matchLabels"]), {name})
        for name in ("queen", "nats"):
            self.assertEqual(chosen(named(self.objects, "Service", name)["spec"]["selector"]), {name})
            policy = named(self.objects, "NetworkPolicy", name)["spec"]
            self.assertEqual(chosen(policy["podSelector"]["matchLabels"]), {name})
        policy = named(self.objects, "NetworkPolicy", "workers")["spec"]
        self.assertEqual(chosen(policy["podSelector"]["matchLabels"]), {"worker-shapes", "worker-sdxl"})
        self.assertEqual(named(self.objects, "PodDisruptionBudget", "queen")["spec"]["minAvailable"], 1)

    def test_ports_that_are_named_are_there(self) -> None:
        for name in WORKLOADS:
            ports = {port["name"] for each in pod(self.objects, name)["containers"] for port in each["ports"]}
            probes = [
                each[probe]["httpGet"]["port"]
                for each in pod(self.objects, name)["containers"]
                for probe in ("startupProbe", "readinessProbe", "livenessProbe")
            ]
            self.assertLessEqual(set(probes), ports, name)
        for name in ("queen", "nats"):
            ports = {port["name"] for each in pod(self.objects, name)["containers"] for port in each["ports"]}
            targets = {port["targetPort"] for port in named(self.objects, "Service", name)["spec"]["ports"]}
            allowed = {
                port["port"]
                for rule in named(self.objects, "NetworkPolicy", name)["spec"]["ingress"]
                for port in rule["ports"]
            }
            self.assertLessEqual(targets | allowed, ports)

    def test_no_container_may_more_than_it_needs(self) -> None:
        for name in WORKLOADS:
            spec = pod(self.objects, name)
            self.assertFalse(spec["automountServiceAccountToken"], name)
            self.assertTrue(spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0, name)
            for container in spec["containers"] + spec.get("initContainers", []):
                may = container["securityContext"]
                self.assertEqual(
                    (may["readOnlyRootFilesystem"], may["allowPrivilegeEscalation"], may["capabilities"]),
                    (True, False, {"drop": ["ALL"]}),
                    container["name"],
                )

    def test_a_worker_on_a_gpu_has_one_and_keeps_what_was_said_of_its_memory(self) -> None:
        resources = pod(self.objects, "worker-sdxl")["containers"][0]["resources"]
        self.assertEqual(resources, {"limits": {"memory": "24Gi", "nvidia.com/gpu": 1}})

    def test_it_can_be_packed_with_the_conf_of_nats_inside(self) -> None:
        with Chart.load(CHART) as chart:
            files = {file["name"]: file["data"] for file in chart.files}
        conf = (CHART / "../../nats.conf").read_text()
        self.assertIn("files/nats.conf", files)
        rendered = named(self.objects, "ConfigMap", "nats")["data"]["nats.conf"]
        self.assertTrue(rendered.startswith(conf.replace('"127.0.0.1:8222"', '"0.0.0.0:8222"')), rendered)

    def test_keda_is_told_which_jobs_to_count(self) -> None:
        objects = [each for each in self.objects if each["kind"] == "ScaledObject"]
        self.assertEqual([each["metadata"]["name"] for each in objects], ["pool-worker-shapes"])
        spec = objects[0]["spec"]
        self.assertEqual(spec["scaleTargetRef"]["name"], objects[0]["metadata"]["name"])
        names = [trigger["name"] for trigger in spec["triggers"]]
        formula = spec["advanced"]["scalingModifiers"]["formula"]
        self.assertEqual(set(re.findall(r"[a-z]\w*", formula)) - {"max"}, set(names))
        self.assertEqual(len(names), len(set(names)))
        for trigger in spec["triggers"]:
            self.assertTrue(all(isinstance(value, str) for value in trigger["metadata"].values()), trigger)
        consumers = {each["metadata"]["consumer"] for each in spec["triggers"] if each["type"] == "nats-jetstream"}
        self.assertEqual(consumers, {f"{does}-tiny-shapes" for does in ("generate", "transform", "inpaint")})
        query = next(each["metadata"]["query"] for each in spec["triggers"] if each["type"] == "prometheus")
        self.assertIn('{model=~"tiny\\\\.shapes",namespace="draw"}', query)
        # What KEDA counts by is what queen was told of.
        variables = pod(self.objects, "queen")["containers"][0]["env"]
        told = next(entry["value"] for entry in variables if entry["name"] == "QUEEN_MODELS")
        self.assertEqual(told, "tiny.shapes,sdxl,other")
        for source, formula in (("nats", "generate_0 + transform_0 + inpaint_0"), ("queen", "queen")):
            scaled = merged(VALUES, pools(scaling={"min": 1, "max": 2, "source": source}))
            spec = next(each["spec"] for each in render(scaled) if each["kind"] == "ScaledObject")
            self.assertEqual(spec["advanced"]["scalingModifiers"]["formula"], formula)
            self.assertEqual(
                {trigger["type"] for trigger in spec["triggers"]},
                {"nats-jetstream" if source == "nats" else "prometheus"},
            )
        self.assertNotIn("replicas", named(self.objects, "Deployment", "worker-shapes")["spec"])
        self.assertEqual(named(self.objects, "Deployment", "worker-sdxl")["spec"]["replicas"], 2)


if __name__ == "__main__":
    unittest.main()
