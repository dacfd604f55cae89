"""What must hold when all jobs have ended. Nothing here talks to anybody: evidence in, violations out."""

from __future__ import annotations

from dataclasses import dataclass, field

TERMINAL = ("complete", "error", "cancelled")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass
class Log:
    """The events of one job, as they came."""

    accepted_at: float | None = None
    ended_at: float | None = None
    attempts: int = 0
    # Who told its end.
    worker: str = ""
    last_seq: int = -1
    ends: list[dict] = field(default_factory=list)
    # What is wrong with their order.
    complaints: list[str] = field(default_factory=list)

    def hear(self, event: dict, now: float) -> None:
        if self.ends:
            self.complaints.append(f"{event['type']} {event['seq']} comes after its end")
        if event["seq"] <= self.last_seq:
            self.complaints.append(f"event {event['seq']} comes after event {self.last_seq}")
        self.last_seq = max(self.last_seq, event["seq"])
        self.attempts = max(self.attempts, event.get("attempt") or 1)
        if event["type"] == "accepted" and self.accepted_at is None:
            self.accepted_at = now
        if event["type"] in TERMINAL:
            self.ends.append(event)
            if self.ended_at is None:
                self.ended_at, self.worker = now, event.get("worker_id", "")


@dataclass
class Kept:
    """What the store has of one job."""

    # result.json, and the sizes in bytes of all files by their keys.
    result: dict | None = None
    files: dict[str, int] = field(default_factory=dict)


@dataclass
class Evidence:
    # Jobs whose POST was answered with 200; one that is there twice was given to two clients.
    accepted: list[str] = field(default_factory=list)
    logs: dict[str, Log] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    jobs_left: int = 0
    dead_letters: int = 0
    # What a client has seen that must not be.
    complaints: list[str] = field(default_factory=list)


def verify(evidence: Evidence) -> list[str]:
    """Everything that is wrong, a line each."""
    found = list(evidence.complaints)
    known = set(evidence.accepted)
    if len(known) != len(evidence.accepted):
        found.append(f"{len(evidence.accepted) - len(known)} ids were given to two jobs")
    for job in known:
        log = evidence.logs.get(job, Log())
        found += [f"{job}: {what}" for what in [*log.complaints, *of_end(log), *of_store(log, evidence.kept.get(job, Kept()))]]
    for job in sorted((evidence.logs.keys() | evidence.kept.keys()) - known):
        found.append(f"{job}: nobody has sent it")
    if evidence.jobs_left:
        found.append(f"{evidence.jobs_left} messages are left in JOBS")
    if evidence.dead_letters:
        found.append(f"there are {evidence.dead_letters} dead letters")
    return found


def of_end(log: Log) -> list[str]:
    if len(log.ends) != 1:
        return [f"has {len(log.ends)} terminal events and not one"]
    end = log.ends[0]
    if end["type"] != "complete":
        return [f"ended in {end['type']} {end.get('code', '')} {end.get('message', '')}".rstrip()]
    return []


def of_store(log: Log, kept: Kept) -> list[str]:
    """A job that is complete has one result, that of the event, and nothing but pictures beside it."""
    if not log.ends or log.ends[0]["type"] != "complete":
        return []
    if kept.result is None:
        return ["is complete and has no result.json"]
    said, stored = pictures(log.ends[0]), pictures(kept.result.get("event", {}))
    found = []
    if said != stored:
        found.append(f"result.json names {stored}, the event {said}")
    if len(said) != 1:
        found.append(f"has {len(said)} pictures, one was asked for")
    for key, size, _ in said:
        there = kept.files.get(key)
        if there != size:
            found.append(f"{key} has {there} bytes in the store and not {size}")
    left = [key for key in kept.files if not key.endswith(("/result.json", *PICTURES))]
    if left:
        found.append(f"has ended, and {', '.join(sorted(left))} was left")
    return found


def pictures(event: dict) -> list[tuple[str, int, str]]:
    return [(image["key"], image["bytes"], image["sha256"]) for image in event.get("images", [])]
