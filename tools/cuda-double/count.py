"""How many kernels, copies and waits a part of a picture takes, counted on a GPU that is not there:

    count.py PARTS FOLDER [--models sd15,sdxl,flux_dev,flux_schnell] [--dtype TYPE] [--detail] [--json FILE]

PARTS is `benches/parts.rs` built with --features cuda (or cuda,cudnn). FOLDER keeps what is made: the stand-ins of
NVIDIA's libraries, and checkpoints of real size that are all zeros and take no space. Prints Markdown; `--detail` adds
every kernel, product and convolution by name, `--json` writes all counts. What the program cannot do has its reason in
place of numbers."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import checkpoints

HERE = Path(__file__).resolve().parent
TITLES = dict(sd15="Stable Diffusion 1.5", sdxl="SDXL base", flux_dev="Flux dev", flux_schnell="Flux schnell")
SIDES = dict(sd15=512, sdxl=1024, flux_dev=1024, flux_schnell=1024)
# As the files are.
DTYPES = dict(sd15="f16", sdxl="f16", flux_dev="bf16", flux_schnell="bf16")

# A kernel is of the first group whose pattern its name begins with.
GROUPS = {
    "strided copy": r"ucopy|copy2d",
    "cast": r"cast_",
    "im2col": r"im2col|col2im",
    "fill": r"fill_|const_set",
    "reduce, softmax, norm": r"fast_|softmax|layernorm|rmsnorm|sum_|arg",
    "random": r"curand_",
    "look up, upsample, rotate": r"is_|ia_|sa_|s_|gather|upsample|rope|asort|get_rows",
    "elementwise": r"affine|where|eq_|ne_|lt_|le_|gt_|ge_|[ub](abs|add|sub|mul|div|min|max|neg|sqr|exp|log|sin|cos|"
    r"tanh|gelu|relu|elu|silu|sigmoid|erf|recip|pow|ceil|floor|round|sign|normcdf)",
    "other": r"",
}


def group_of(kernel: str) -> str:
    return next(group for group, pattern in GROUPS.items() if re.match(pattern, kernel))


@dataclass
class Counts:
    """What was counted between two waits, or the difference of two such."""

    line: dict

    def by_group(self) -> dict[str, int]:
        groups = {"product of matrices": self.times("gemms"), "convolution": self.times("convolutions")}
        groups |= dict.fromkeys(GROUPS, 0)
        for kernel, times in self.line["launches"].items():
            groups[group_of(kernel)] += times
        groups["memset"] = self.times("fills")
        groups["copy on the device"] = self.of("copies", "dtod")
        return groups

    def times(self, section: str) -> int:
        return sum(entry.get("n", 0) for entry in self.line[section].values())

    def of(self, section: str, name: str, what: str = "n") -> float:
        return self.line[section].get(name, {}).get(what, 0)

    def flops(self, section: str) -> float:
        return sum(entry.get("flops", 0) for entry in self.line[section].values())

    def minus(self, other: Counts) -> Counts:
        """What is in this and not in the other; of peaks, which do not add up, this one's."""
        return Counts({key: less(value, other.line[key]) for key, value in self.line.items()} | {
            key: self.line[key] for key in ("label", "bytes", "peak_bytes", "streams")})


def less(mine, other):
    """Of numbers by name, those that differ."""
    if isinstance(mine, dict):
        pairs = {key: less(value, other[key]) if key in other else value for key, value in mine.items()}
        return {key: value for key, value in pairs.items() if value}
    return mine if isinstance(mine, str) else mine - other


class Refused(Exception):
    """Why there are no numbers."""


@dataclass
class Bench:
    """The program under the stand-ins."""

    command: list[str]
    folder: Path
    process: subprocess.Popen = field(init=False)

    def __post_init__(self) -> None:
        self.log, self.mark, self.words = (self.folder / name for name in ("log", "mark", "words"))
        for path in (self.log, self.mark):
            path.unlink(missing_ok=True)
        own = dict(
            LD_LIBRARY_PATH=str(self.folder / "double"), CUDA_DOUBLE_LOG=str(self.log),
            CUDA_DOUBLE_MARK=str(self.mark), RUST_BACKTRACE="0")
        with open(self.words, "w") as words:
            self.process = subprocess.Popen(
                self.command, env=os.environ | own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
                text=True)
        self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            words = self.words.read_text().strip().splitlines()
            raise Refused(words[0] if words else f"it ended with {self.process.returncode}")
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def ask(self, line: str, mark: str | None = None) -> None:
        if mark:
            self.mark.write_text(mark)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self.answer()

    def count(self, line: str) -> Counts:
        """What one answer takes when it is not the first. From the first wait of one to the first wait of the next is
        exactly one of them, wherever in it that wait is."""
        self.ask(line)
        self.ask(line, "before")
        self.ask(line, "counted")
        if self.mark.exists():
            raise Refused(f"`{line}` never waited for the device")
        lines = [json.loads(text) for text in self.log.read_text().splitlines()]
        return Counts(next(line for line in reversed(lines) if line["label"] == "counted"))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(args: argparse.Namespace, name: str) -> dict[str, Counts | str]:
    """The parts of a model by their titles."""
    side, dtype = SIDES[name], args.dtype or DTYPES[name]
    folder = checkpoints.make(name, args.folder / "checkpoints")
    command = [
        str(args.parts.resolve()), "--serve", "--device", "cuda", "--model", str(folder), "--dtype", dtype]
    title = f"{TITLES[name]}, {dtype}"
    measured: dict[str, Counts | str] = {}

    def attempt(part: str, how) -> None:
        try:
            measured[f"{title}, {part}"] = how()
        except Refused as reason:
            measured[f"{title}, {part}"] = str(reason)

    try:
        bench = Bench(command, args.folder)
    except Refused as reason:
        return {title: str(reason)}
    two, one = f"draw 1 2 {side}", f"draw 1 1 {side}"
    if not name.startswith("flux"):
        attempt(f"the UNet, two samples, {side}x{side}", lambda: bench.count("unet"))
        attempt(f"VAE decode, {side}x{side}", lambda: bench.count("vae"))
    # With the scheduler and what goes between host and device: of two steps, what one step does not have.
    attempt(f"a step, {side}x{side}", lambda: bench.count(two).minus(bench.count(one)))
    attempt("a picture of one step", lambda: bench.count(one))
    bench.close()
    return measured


def table(measured: dict[str, Counts | str]) -> str:
    columns = {title: counts for title, counts in measured.items() if isinstance(counts, Counts)}
    rows: list[tuple[str, list[str]]] = []

    def row(name: str, value) -> None:
        rows.append((name, [value(counts) for counts in columns.values()]))

    groups = [counts.by_group() for counts in columns.values()]
    for group in groups[0] if groups else ():
        rows.append((group, [f"{each[group]:,}" for each in groups]))
    rows.append(("**all of these**", [f"**{sum(each.values()):,}**" for each in groups]))
    row("host to device", lambda counts: f"{counts.of('copies', 'htod'):,}")
    row("the same, KiB", lambda counts: f"{counts.of('copies', 'htod', 'bytes') / 1024:,.0f}")
    row("device to host (waits)", lambda counts: f"{counts.of('copies', 'dtoh'):,}")
    row("the same, KiB", lambda counts: f"{counts.of('copies', 'dtoh', 'bytes') / 1024:,.0f}")
    row("synchronize", lambda counts: f"{counts.line.get('synchronizes', 0):,}")
    row("allocations", lambda counts: f"{counts.line.get('allocations', 0):,}")
    row("events made", lambda counts: f"{counts.line.get('events_created', 0):,}")
    row("streams", lambda counts: f"{counts.line.get('streams', {}).get('all', '')}")
    row("memory at most, GiB", lambda counts: f"{counts.line.get('peak_bytes', 0) / 2**30:.2f}")
    row("products, TFLOP", lambda counts: f"{counts.flops('gemms') / 1e12:.3f}")
    row("convolutions, TFLOP", lambda counts: f"{counts.flops('convolutions') / 1e12:.3f}")
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    return "\n".join(lines)


def detail(title: str, counts: Counts) -> str:
    lines = [f"\n### {title}\n", "| kernel | times |", "|---|---|"]
    named = dict(counts.line["launches"])
    for section in ("gemms", "convolutions", "fills"):
        named |= {name: entry.get("n", 0) for name, entry in counts.line[section].items()}
    lines += [f"| {name} | {times:,} |" for name, times in sorted(named.items(), key=lambda item: -item[1])]
    shapes = sorted(counts.line["shapes"].items(), key=lambda item: -item[1].get("flops", 0))
    lines += ["", "| product or convolution | times | GFLOP |", "|---|---|---|"]
    lines += [f"| {shape} | {entry.get('n', 0)} | {entry.get('flops', 0) / 1e9:,.1f} |" for shape, entry in shapes]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", type=Path, help="the benchmark `parts`, built for CUDA")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="sd15,sdxl", help=", ".join(checkpoints.MODELS))
    parser.add_argument("--dtype", help="as the worker's [default: f16, and bf16 of Flux]")
    parser.add_argument("--detail", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    (args.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    args.folder = args.folder.resolve()
    subprocess.run(
        [HERE / "build", args.parts, args.folder / "double"], check=True, stdout=subprocess.DEVNULL)
    measured: dict[str, Counts | str] = {}
    for name in args.models.split(","):
        if name not in checkpoints.MODELS:
            sys.exit(f"--models: `{name}` is none; there are {', '.join(checkpoints.MODELS)}")
        measured |= measure(args, name)
    print(table(measured))
    for title, counts in measured.items():
        if isinstance(counts, str):
            print(f"\n{title}: not counted: {counts}")
        elif args.detail:
            print(detail(title, counts))
    if args.json:
        lines = {title: counts.line if isinstance(counts, Counts) else counts for title, counts in measured.items()}
        args.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
