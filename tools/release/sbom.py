"""A list of what is in our programs (CycloneDX 1.6, JSON): every crate that is built into one for this platform,
with its licence, the hash of its source and what it depends on. The same sources give the same list: there is neither a
time nor a number in it.

    python3 tools/release/sbom.py [--target x86_64-unknown-linux-gnu] [--features cuda] > rbee.cdx.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def host() -> str:
    said = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    return next(line.removeprefix("host: ") for line in said.splitlines() if line.startswith("host: "))


def metadata(target: str, features: list[str]) -> dict[str, Any]:
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    if features:
        command += ["--features", ",".join(features)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def hashes() -> dict[tuple[str, str], str]:
    """SHA-256 of each crate's source, by name and version."""
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(each["name"], each["version"]): each["checksum"] for each in lock["package"] if "checksum" in each}


def built(nodes: dict[str, dict[str, Any]], root: str) -> dict[str, list[str]]:
    """The crates that are built into the programs, each with those that it uses. None that only builds or tests."""
    found: dict[str, list[str]] = {}
    waiting = [root]
    while waiting:
        crate = waiting.pop()
        if crate in found:
            continue
        used = [each["pkg"] for each in nodes[crate]["deps"] if any(kind["kind"] is None for kind in each["dep_kinds"])]
        found[crate] = sorted(set(used))
        waiting += used
    return found


def component(package: dict[str, Any], known: dict[tuple[str, str], str]) -> dict[str, Any]:
    name, version = package["name"], package["version"]
    made = {"type": "library", "bom-ref": f"pkg:cargo/{name}@{version}", "name": name, "version": version}
    if package["license"]:
        # Some crates write the OR of SPDX as a slash.
        made["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    made["purl"] = made["bom-ref"]
    if (name, version) in known:
        made["hashes"] = [{"alg": "SHA-256", "content": known[name, version]}]
    return made


def bill(target: str, features: list[str]) -> dict[str, Any]:
    told, known = metadata(target, features), hashes()
    packages = {package["id"]: package for package in told["packages"]}
    root = told["resolve"]["root"]
    graph = built({node["id"]: node for node in told["resolve"]["nodes"]}, root)
    made = {crate: component(packages[crate], known) for crate in graph}
    ours = {**made.pop(root), "type": "application"}
    properties = [{"name": "target", "value": target}, {"name": "features", "value": ",".join(["default", *features])}]
    reference = {crate: each["bom-ref"] for crate, each in {**made, root: ours}.items()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": ours, "properties": properties},
        "components": sorted(made.values(), key=lambda each: each["bom-ref"]),
        "dependencies": sorted(
            (
                {"ref": reference[crate], "dependsOn": [reference[each] for each in used]}
                for crate, used in graph.items()
            ),
            key=lambda each: each["ref"],
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="A list of what is in our programs, as CycloneDX")
    parser.add_argument("--target", default=None, help="the platform [default: this one]")
    parser.add_argument("--features", default="", help="features beside the default ones, with commas")
    asked = parser.parse_args()
    features = [each for each in asked.features.split(",") if each]
    json.dump(bill(asked.target or host(), features), sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
