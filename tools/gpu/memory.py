"""The most memory of the GPU that a process had while something ran, as the driver's library counts it."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass

import libraries

EVERY = 0.02  # seconds
GIB = 2**30
LIBRARY = "libnvidia-ml.so.1"
# What a process has where the driver does not tell.
UNKNOWN = 2**64 - 1
MOST_PROCESSES = 256


class Process(ctypes.Structure):
    """nvmlProcessInfo_t of the third version of its function."""

    _fields_ = [
        ("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint)]


class Card(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


@dataclass(frozen=True)
class Used:
    """Bytes of the whole card, and of each process that the driver tells of."""

    card: int
    processes: dict[int, int]


class Driver:
    """NVML, for the first GPU."""

    def __init__(self) -> None:
        self._library = self._load()
        self._call("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(0), ctypes.byref(self._device))

    @staticmethod
    def _load() -> ctypes.CDLL:
        for name in (LIBRARY, *(str(folder / LIBRARY) for folder in libraries.folders())):
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
        raise OSError(f"{LIBRARY} was not found")

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise OSError(f"{name} answers {code}")

    def used(self) -> Used:
        card = Card()
        self._call("nvmlDeviceGetMemoryInfo", self._device, ctypes.byref(card))
        count = ctypes.c_uint(MOST_PROCESSES)
        found = (Process * MOST_PROCESSES)()
        self._call("nvmlDeviceGetComputeRunningProcesses_v3", self._device, ctypes.byref(count), found)
        return Used(card.used, {one.pid: one.used for one in found[: count.value] if one.used != UNKNOWN})


class Watch:
    """`with Watch(...) as watch`: looks many times a second. Nothing is timed meanwhile: looking takes time of the driver."""

    def __init__(self, on_gpu: bool) -> None:
        self._driver: Driver | None = None
        self._before = self._most = Used(0, {})
        self._stop = threading.Event()
        if on_gpu:
            try:
                self._driver = Driver()
                self._before = self._most = self._driver.used()
            except (OSError, AttributeError):
                self._driver = None
        self._on_gpu = on_gpu

    def __enter__(self) -> Watch:
        if self._driver:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._driver:
            self._thread.join(5)

    def gib(self, pid: int) -> float | str | None:
        """The most of a process. In a container the driver may know it by another number, or not tell: then by how much
        the use of the whole card rose."""
        if not self._on_gpu:
            return None
        if pid in self._most.processes:
            return round(self._most.processes[pid] / GIB, 2)
        return f"card +{(self._most.card - self._before.card) / GIB:.2f}" if self._driver else "not told"

    def see(self, now: Used) -> None:
        most = {pid: max(bytes_, self._most.processes.get(pid, 0)) for pid, bytes_ in now.processes.items()}
        self._most = Used(max(self._most.card, now.card), self._most.processes | most)

    def _look(self) -> None:
        assert self._driver
        while not self._stop.wait(EVERY):
            try:
                self.see(self._driver.used())
            except OSError:
                return
