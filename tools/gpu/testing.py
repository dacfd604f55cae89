"""What the tests here share."""

from __future__ import annotations

import os
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

from part import Part, Settings


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = Path(held.name)

    def part(self, name: str = "truth", device: str = "cpu", left: float = 60.0) -> tuple[Part, Path]:
        """A part, and the file that its rows go to."""
        settings = Settings(device, str(self.folder), str(self.folder), str(self.folder), str(self.folder / "models"))
        rows = self.folder / "rows"
        self.enterContext(mock.patch.object(Part, "log"))
        part = Part(name, settings, time.time() + left, os.open(rows, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        self.addCleanup(lambda: part._rows.close())
        return part, rows
