"""Draws a manifest of prompts (tools/tiny-shapes/score.py --list) with the project's own worker, over NATS.

    python draw.py --model models/tiny-shapes --manifest prompts.jsonl --pictures DIR
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from pathlib import Path

import pool


async def draw(model: str, manifest: list[dict[str, str | int]], pictures: Path) -> None:
    with pool.pool(model) as workers:
        client = await workers.connect()
        for line in manifest:
            body = {"prompt": line["prompt"], "seed": line["seed"], "stream": False}
            reply = await pool.request(client, "image.generate", json.dumps(body).encode())
            event = json.loads(reply.data)
            if event["type"] != "complete":
                sys.exit(f"{line['prompt']}: {event}")
            shutil.copyfile(workers.store / event["images"][0]["key"], pictures / str(line["file"]))
        await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="what sd-worker-cpu --model takes")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON lines: file, prompt, seed")
    parser.add_argument("--pictures", type=Path, required=True, help="folder for the pictures")
    args = parser.parse_args()
    args.pictures.mkdir(parents=True, exist_ok=True)
    manifest = [json.loads(line) for line in args.manifest.read_text(encoding="utf-8").splitlines() if line]
    asyncio.run(draw(args.model, manifest, args.pictures))


if __name__ == "__main__":
    main()
