"""The list of what is in our programs: it is CycloneDX, has what is built into them and nothing else, and is the same
each time."""

from __future__ import annotations

import json
import subprocess
import sys
import unittest

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import pool


class Listed(unittest.TestCase):
    def test_what_is_built_into_the_programs_is_listed(self) -> None:
        command = [sys.executable, str(pool.ROOT / "tools/release/sbom.py")]
        texts = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
        self.assertEqual(texts[0], texts[1])
        self.assertIsNone(JsonStrictValidator(SchemaVersion.V1_6).validate_str(texts[0]))
        told = json.loads(texts[0])
        self.assertEqual(told["metadata"]["component"]["name"], "sd-worker-rbee")
        names = {each["name"] for each in told["components"]}
        self.assertLessEqual({"async-nats", "axum", "candle-core", "clap", "hf-hub", "object_store", "rustls"}, names)
        self.assertFalse({"criterion", "proptest", "jsonschema", "serde-saphyr"} & names)
        for each in told["components"]:
            self.assertTrue(each["licenses"] and len(each["hashes"][0]["content"]) == 64, each)


if __name__ == "__main__":
    unittest.main()
