"""The folder that is the pool's store, read when all is done."""

from __future__ import annotations

import json
import os
from pathlib import Path

from verify import Kept


def kept(store: Path) -> dict[str, Kept]:
    """What is below jobs/, by job."""
    found: dict[str, Kept] = {}
    for folder, _, names in os.walk(store / "jobs"):
        for name in names:
            path = Path(folder, name)
            key = path.relative_to(store).as_posix()
            job = found.setdefault(key.split("/")[1], Kept())
            job.files[key] = path.stat().st_size
            if name == "result.json":
                job.result = json.loads(path.read_bytes())
    return found
