"""The documents: what they link to is there, and every flag of workers and queen stands in a table."""

from __future__ import annotations

import re
import subprocess
import unittest
from pathlib import Path

import pool

DOCUMENTS = [*pool.ROOT.glob("*.md"), *(pool.ROOT / "docs").glob("*.md")]
TABLES = ("worker", "queen", "configuration", "webhooks", "traces")


def anchors(document: Path) -> set[str]:
    """The headings, as links name them."""
    text = re.sub(r"(?s)```.*?```", "", document.read_text())
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Documents(unittest.TestCase):
    def test_what_they_link_to_is_there(self) -> None:
        missing = []
        for document in DOCUMENTS:
            text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", document.read_text())
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                if re.match(r"[a-z]+:", target):
                    continue
                name, _, anchor = target.partition("#")
                file = document.parent / name if name else document
                if not file.exists() or (anchor and anchor not in anchors(file)):
                    missing.append(f"{document.name}: {target}")
        self.assertEqual(missing, [])

    def test_every_flag_of_workers_and_queen_stands_in_a_table(self) -> None:
        rows = "\n".join(
            line
            for name in TABLES
            for line in (pool.ROOT / f"docs/{name}.md").read_text().splitlines()
            if line.startswith("|")
        )
        told = set(re.findall(r"--[a-z][a-z-]+", rows)) | {"--help", "--version", "--log-format"}
        for program in (pool.worker_binary(), pool.queen_binary()):
            said = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
            flags = set(re.findall(r"(?m)^\s+(?:-\w, )?(--[a-z][a-z-]+)", said))
            self.assertGreater(len(flags), 20)
            self.assertEqual(flags - told, set(), program.name)


if __name__ == "__main__":
    unittest.main()
