"""Where things lie: in the project's tree, or in an unpacked pack, which has the same folders."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The small checkpoints and what was recorded of them.
DATA = ROOT / "tests/data/parity"
LORAS = DATA / "loras"
SHAPES = ROOT / "models/tiny-shapes"
# In a pack only: the CPU's pictures of every case, and what the programs were built for.
REFERENCES = ROOT / "references"
BUILT = ROOT / "built.json"

# Folders whose modules are used here: the peers that take turns, and the definitions of runs.
for _folder in ("tools/compare", "tools/parity"):
    if str(ROOT / _folder) not in sys.path:
        sys.path.append(str(ROOT / _folder))


def program(folder: Path, name: str) -> Path | None:
    """A program of ours: FOLDER/NAME, or of a benchmark the newest FOLDER/deps/NAME-<hash>."""
    if (folder / name).is_file():
        return folder / name
    built = [path for path in folder.glob(f"deps/{name}-*") if path.suffix == "" and path.stat().st_mode & 0o100]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


def nats_server(folder: Path) -> Path | None:
    """The pack's nats-server, or the system's: Debian puts it where a user's PATH does not reach."""
    if (folder / "nats-server").is_file():
        return folder / "nats-server"
    for place in (None, "/usr/sbin:/usr/local/sbin"):
        if found := shutil.which("nats-server", path=place):
            return Path(found)
    return None


def built_for() -> int | None:
    """The compute capability of a pack's programs, as 90 for 9.0."""
    return json.loads(BUILT.read_text())["capability"] if BUILT.exists() else None
