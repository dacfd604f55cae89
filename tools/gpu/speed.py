"""How fast: steps, decode and whole pictures of ours beside diffusers, eager and compiled, in turns; the worker's pictures a
second. What says most comes first, and what there is no time for says so."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import models
import places
import throughput
from memory import Watch
from models import Model
from part import Part, has
from peers import Peer, PeerError, ours, python
from report import NOT_COMPARED, brief

OURS, EAGER, COMPILED = "ours", "diffusers", "diffusers, compiled"
# Measurements that count, fewer where one takes long. One before them, of two steps, does not: it loads, tunes and
# compiles.
ROUNDS, LONG = dict(cuda=3, cpu=1), 9.0
# The most seconds that a peer may take to start, and to answer: the first answer of a compiled one takes a minute.
START, ANSWER = 90.0, 150.0
# Seconds that a start takes of a compiled peer, with its first answer, as long as none was seen.
COMPILES = dict(cuda=45.0, cpu=60.0)
# Left for whoever writes the rows.
MARGIN = 5.0


class NoTime(Exception):
    """What was to be measured does not fit into what is left."""


class Bench:
    """The peers of one run, started when they are first asked."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._peers: dict[tuple[str, str], Peer | str] = {}
        # Seconds that a peer took for one picture of a batch the last time.
        self._paces: dict[tuple[str, str], float] = {}

    def close(self) -> None:
        for peer in self._peers.values():
            if isinstance(peer, Peer):
                peer.close()

    def forget(self, model: Model) -> None:
        """Ends the peers of a model: their memory is for others."""
        for (of, who), peer in list(self._peers.items()):
            if of == model.name:
                if isinstance(peer, Peer):
                    peer.close()
                del self._peers[of, who]

    def start(self, chosen: list[Model], whos: list[str]) -> None:
        """Starts peers side by side: each loads libraries for seconds."""
        wanted = [(model, who) for model in chosen for who in whos if (model.name, who) not in self._peers]
        if wanted:
            with ThreadPoolExecutor(len(wanted)) as threads:
                for one in [threads.submit(self._peer, *pair) for pair in wanted]:
                    one.exception()  # which whoever asks the peer is told

    def _command(self, model: Model, who: str) -> list[str]:
        flags = ["--device", self._part.settings.device, "--dtype", model.dtype]
        if who == OURS:
            return ours(self._part.settings.program("parts"), model.folder, *flags)
        more = ["--compile"] if who == COMPILED else []
        return python(str(places.HERE / "diffuse.py"), "--model", str(model.folder), *flags, *more)

    def _peer(self, model: Model, who: str) -> Peer:
        place = (model.name, who)
        if place not in self._peers:
            begun = time.monotonic()
            environment = self._part.settings.environment() if who == OURS else os.environ
            threads = len(os.sched_getaffinity(0))
            try:
                self._peers[place] = Peer(
                    who, self._command(model, who), threads, environment, min(START, self._part.left() - MARGIN))
            except (PeerError, OSError) as error:
                self._peers[place] = str(error)
            self._part.log(f"{who} of {model.name} started in {time.monotonic() - begun:.1f} s")
        peer = self._peers[place]
        if isinstance(peer, str):
            raise PeerError(peer)
        return peer

    def _ask(self, model: Model, who: str, batch: int, steps: int) -> dict:
        peer = self._peer(model, who)
        try:
            return peer.ask(f"draw {batch} {steps} {model.side}", min(ANSWER, max(1.0, self._part.left() - MARGIN)))
        except PeerError as error:
            if "did not answer" in str(error) or "is gone" in str(error):
                # Whoever asks it again is told what became of it.
                self._peers[model.name, who] = str(error)
                peer.close()
            raise

    def measure(self, model: Model, batch: int, whos: list[str]) -> None:
        """Rows of one batch: the peers take turns, round by round."""
        rounds: dict[str, list[dict]] = {}
        memory: dict[str, dict[str, object]] = {}
        for who in whos:
            try:
                self._must_fit(model, batch, who)
                memory[who] = self._first(model, batch, who)
                rounds[who] = []
            except (PeerError, NoTime) as error:
                self._part.skip(model.title, f"{who}, batch {batch}", brief(error))
        for done in range(ROUNDS[self._part.settings.device]):
            slowest = max((total(seen[-1]) for seen in rounds.values() if seen), default=0.0)
            if done and (done + 1) * slowest > LONG:
                break
            for who in list(rounds):
                if rounds[who] and self._part.left() < MARGIN + 1.5 * total(rounds[who][-1]):
                    continue
                try:
                    rounds[who].append(self._ask(model, who, batch, model.timed_steps))
                except PeerError as error:
                    if not rounds[who]:
                        self._part.skip(model.title, f"{who}, batch {batch}", brief(error))
        for who, seen in rounds.items():
            if seen:
                self._paces[model.name, who] = median(map(total, seen)) / batch
                self._row(model, batch, who, seen, rounds.get(OURS), memory[who])

    def _must_fit(self, model: Model, batch: int, who: str) -> None:
        left = self._part.left() - MARGIN
        # One that does not count and one that does.
        needed = self._paces.get((model.name, who), 0.0) * batch * 2
        if (model.name, who) not in self._peers:
            needed += COMPILES[self._part.settings.device] if who == COMPILED else 10.0
        elif who == COMPILED:
            needed += COMPILES[self._part.settings.device] / 2
        if needed > left:
            raise NoTime(f"{left:.0f} s were left, about {needed:.0f} s are needed")

    def _first(self, model: Model, batch: int, who: str) -> dict[str, object]:
        """Not counted; the memory that it takes, and the seconds."""
        peer = self._peer(model, who)
        begun = time.monotonic()
        with Watch(self._part.settings.on_gpu) as watch:
            said = self._ask(model, who, batch, min(2, model.timed_steps))
        seen: dict[str, object] = {"GPU memory, GiB": watch.gib(peer.pid)}
        if "allocated" in said:
            seen["allocated by PyTorch, GiB"] = round(said["allocated"] / 2**30, 2)
        if who == COMPILED:
            seen["first draw, s"] = round(time.monotonic() - begun, 1)
        return seen

    def _row(self, model: Model, batch: int, who: str, seen: list[dict], own: list[dict] | None, more: dict) -> None:
        steps = [one["steps"] / model.timed_steps for one in seen]
        cells: dict[str, object] = {
            "step of the batch, s": round(median(steps), 5), "least to most": f"{min(steps):.4f} to {max(steps):.4f}",
            "rounds": len(seen),
            "decode of the batch, s": round(median(one["finish"] for one in seen), 4),
            "prompts, s": round(median(one["begin"] for one in seen), 4),
            f"pictures/s at {model.steps} steps": round(batch / whole(seen, model), 4)}
        if own and who != OURS:
            mine = median(one["steps"] for one in own)
            cells["step: this / ours"] = round(median(one["steps"] for one in seen) / mine, 3)
            cells["picture: this / ours"] = round(whole(seen, model) / whole(own, model), 3)
        self._part.row(model.title, f"{who}, batch {batch}", cells | more)


def total(one: dict) -> float:
    return one["begin"] + one["steps"] + one["finish"]


def whole(seen: list[dict], model: Model) -> float:
    """Seconds of a batch of whole pictures: fewer steps were timed than a picture has."""
    return median(one["begin"] + one["finish"] + one["steps"] * model.steps / model.timed_steps for one in seen)


def run(part: Part) -> None:
    timed = models.timed(part.settings)
    whos = [OURS, EAGER]
    if part.settings.program("parts") is None:
        part.skip("Peers", OURS, "the benchmark `parts` is not among the programs: not timed")
        whos.remove(OURS)
    if missing := [module for module in models.NEEDED if not has(module)]:
        part.row("Peers", EAGER, verdict=NOT_COMPARED, note=f"{missing[0]} is not installed here: not compared")
        whos.remove(EAGER)
    ready = []
    for model in timed:
        if why := models.make(part, model, part.left() / 3):
            part.skip("Checkpoints", model.name, why)
        else:
            ready.append(model)
    bench = Bench(part)
    try:
        for what in plan(part, bench, ready, whos):
            what()
    finally:
        bench.close()


def plan(part: Part, bench: Bench, ready: list[Model], whos: list[str]) -> list[Callable[[], None]]:
    """What is measured, in order."""
    batches = (4, 8) if part.settings.on_gpu else (2,)
    compiles = EAGER in whos and part.settings.on_gpu
    plan: list[Callable[[], None]] = [lambda: bench.start(ready, whos)]
    plan += [lambda model=model: bench.measure(model, 1, whos) for model in ready]
    for model in ready:
        plan += [lambda model=model, batch=batch: bench.measure(model, batch, whos) for batch in batches]
    plan += [lambda: throughput.measure(part, model) for model in ready[:1]]
    # Ours once more, in turns with the compiled one.
    against = [who for who in (OURS, COMPILED) if who == COMPILED or who in whos]
    if compiles:
        plan.append(lambda: bench.start(ready, [COMPILED]))
        plan += [lambda model=model, batch=batch: bench.measure(model, batch, against) for batch in (1, 4) for model in ready]
    plan.append(lambda: with_flux(part, bench, ready, whos))
    plan += [lambda model=model: throughput.measure(part, model) for model in ready[1:]]
    return plan


def with_flux(part: Part, bench: Bench, ready: list[Model], whos: list[str]) -> None:
    """Flux where time is left: its checkpoint alone takes a third of a minute to make and to load."""
    model = models.flux(part.settings)
    if part.settings.on_gpu and part.left() < 60:
        part.skip(model.title, "all", f"{part.left():.0f} s were left, about 60 s are needed")
        return
    for other in ready:
        bench.forget(other)
    if why := models.make(part, model, part.left() / 2):
        part.skip(model.title, "all", why)
    else:
        bench.measure(model, 1, whos)
        if model.made:
            shutil.rmtree(model.folder, ignore_errors=True)
