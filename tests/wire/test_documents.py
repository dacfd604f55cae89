"""The OpenAPI and the AsyncAPI document, judged by programs that are not ours; and a queen, tried with what its document says.

Run by scripts/test; by hand: `python -m unittest discover -s tests/wire` with SD_WORKER and SD_QUEEN set.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
import urllib.request
from pathlib import Path

import openapi_spec_validator

import pool

FOLDER = pool.ROOT / "schemas"
#: Beside the interpreter: programs that come with packages.
PROGRAMS = Path(sys.executable).parent
#: AsyncAPI's own parser.
PARSER = "@asyncapi/parser@3.6.6"
PARSE = """
import { Parser } from '@asyncapi/parser';
import { readFileSync } from 'node:fs';
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));
const wrong = diagnostics.filter((found) => found.severity < 2);
for (const found of wrong) console.log(found.path.join('.'), found.message);
process.exit(document && wrong.length === 0 ? 0 : 1);
"""
DOORS = ("OpenAI Images", "A1111")
#: Streams that end when their job does, or never.
STREAMS = ("/v1/events", "/v1/jobs/{id}/stream")
#: A schema cannot say that a text is a picture, or a model one of the pool's.
NOT_TOLD = "positive_data_acceptance"
#: Doors take `null`, an empty text and `"5"` as their clients mean them.
FORGIVING = "negative_data_rejection"


class Documents(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = contextlib.ExitStack()
        cls.addClassCleanup(cls.stack.close)
        limits = ["--rate-limit", "0", "--request-limit", "0"]
        models = [f"{name}=sim://?step_ms=1&size=64" for name in ("shapes", "other")]
        cls.queen = cls.stack.enter_context(pool.queen(*models, arguments=limits))

    def test_the_openapi_document_is_valid_and_served_as_it_is_written_down(self) -> None:
        written = json.loads((FOLDER / "openapi.json").read_text())
        openapi_spec_validator.validate(written)
        with urllib.request.urlopen(f"{self.queen}/openapi.json") as response:
            self.assertEqual(json.load(response), written)

    def test_the_asyncapi_document_is_valid(self) -> None:
        # npm is a script beside this interpreter's node.
        environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
        with tempfile.TemporaryDirectory() as folder:
            install = [PROGRAMS / "npm", "install", "--silent", "--no-audit", "--no-fund", PARSER]
            subprocess.run(install, cwd=folder, env=environment, check=True)
            script = Path(folder) / "parse.mjs"
            script.write_text(PARSE)
            for document, is_valid in ((FOLDER / "asyncapi.yaml", True), (Path(folder) / "bad.yaml", False)):
                if not is_valid:
                    document.write_text((FOLDER / "asyncapi.yaml").read_text().replace("channels:", "subjects:", 1))
                parse = [PROGRAMS / "node", script, document]
                parsed = subprocess.run(parse, cwd=folder, env=environment, capture_output=True, text=True)
                self.assertEqual(parsed.returncode == 0, is_valid, parsed.stdout + parsed.stderr)

    def tried(self, *selection: str) -> None:
        """Each endpoint with bodies, paths and queries that fit its schemas, and with such that do not."""
        bounds = ["--seed", "1", "--max-examples", "8", "--phases", "coverage,fuzzing", "--request-timeout", "60"]
        left_out = [f"--exclude-path={path}" for path in STREAMS]
        command = [PROGRAMS / "st", "run", "--workers", "2", *bounds, *left_out, *selection]
        with tempfile.TemporaryDirectory() as folder:
            said = subprocess.run(
                [*command, f"{self.queen}/openapi.json"], cwd=folder, capture_output=True, text=True
            )
        self.assertEqual(said.returncode, 0, said.stdout[-8000:] + said.stderr[-2000:])

    def test_queen_answers_everything_as_its_document_says(self) -> None:
        self.tried(f"--exclude-checks={NOT_TOLD}", *(f"--exclude-tag={door}" for door in DOORS))

    def test_doors_answer_everything_as_the_document_says(self) -> None:
        self.tried(f"--exclude-checks={NOT_TOLD},{FORGIVING}", *(f"--include-tag={door}" for door in DOORS))


if __name__ == "__main__":
    unittest.main()
