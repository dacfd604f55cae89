"""Beside the first parts: makes the checkpoints of real size, and lets PyTorch compile their networks into its cache, so
that `speed` does not wait for either. What is not done when `speed` begins is done there, or left out."""

from __future__ import annotations

import os
import time

import models
import places
from models import Model
from part import Part, has
from peers import Peer, PeerError, python
from report import brief

# Batches of pictures that are compiled for.
BATCHES = (1, 4)


def made(part: Part, model: Model) -> bool:
    begun = time.monotonic()
    if why := models.make(part, model, part.left()):
        part.skip("Checkpoints", model.name, why)
        return False
    part.row("Checkpoints", model.name, dict(seconds=round(time.monotonic() - begun, 1)))
    return True


def compiled(part: Part, peers: dict[str, Peer], model: Model, batch: int) -> None:
    name = f"{model.name}, batch {batch}"
    begun = time.monotonic()
    try:
        if model.name not in peers:
            flags = ["--device", part.settings.device, "--dtype", model.dtype, "--compile"]
            command = python(str(places.HERE / "diffuse.py"), "--model", str(model.folder), *flags)
            # Half of the processors: the jobs of other parts run meanwhile.
            threads = max(1, (os.cpu_count() or 2) // 2)
            peers[model.name] = Peer(name, command, threads, seconds=part.left())
        peers[model.name].ask(f"draw {batch} 1 {model.side}", part.left())
    except PeerError as error:
        part.skip("First compilation", name, brief(error))
        return
    part.row("First compilation", name, dict(seconds=round(time.monotonic() - begun, 1)))


def run(part: Part) -> None:
    timed = [model for model in models.timed(part.settings) if model.made and made(part, model)]
    if not all(has(module) for module in models.NEEDED):
        return
    peers: dict[str, Peer] = {}
    for batch in BATCHES:
        for model in timed:
            compiled(part, peers, model, batch)
    for peer in peers.values():
        peer.close()
    made(part, models.flux(part.settings))
