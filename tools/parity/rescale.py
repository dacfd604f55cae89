"""Runs of diffusers with `guidance_rescale`, and one of a model that predicts velocity and was trained from noise alone on:
`rescale.py OUTPUT_FOLDER` reads the checkpoints `text` and `xl` there and writes `rescale.json` and `rescale.safetensors`."""

import json
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

import runs

CLASSES = dict(text=StableDiffusionPipeline, xl=StableDiffusionXLPipeline)
# What the marks `v_pred` and `ztsnr` of a file say.
VELOCITY = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
RUNS = [
    runs.run("rescale_text", "text", "text", "ddim", guidance_rescale=0.7, steps=3, width=64, height=32),
    runs.run("rescale_xl", "xl", "text", "euler", guidance_rescale=1.0, steps=3, width=32, height=64),
    runs.run("velocity_xl", "xl", "text", None, guidance_rescale=0.7, steps=3, width=32, height=64),
]


def make(folder: Path):
    out = {}
    for case in RUNS:
        cls = CLASSES[case["checkpoint"]]
        checkpoint = cls.from_pretrained(folder / case["checkpoint"], torch_dtype=torch.float32)
        if case["name"].startswith("velocity"):
            checkpoint.scheduler = type(checkpoint.scheduler).from_config(checkpoint.scheduler.config, **VELOCITY)
        runs.one(case, checkpoint, cls, out)
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "rescale.safetensors")
    (folder / "rescale.json").write_text(json.dumps(RUNS, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
