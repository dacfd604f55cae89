"""Runs as the makers of distilled LoRAs mean them, with options of schedulers set: `few_steps.py OUTPUT_FOLDER`, after
`lora.py`, whose LoRAs stand in for the published ones."""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

import lora
import runs

TRAILING = dict(timestep_spacing="trailing")
RUNS = [
    # SDXL-Lightning: Euler, trailing, no guidance.
    runs.run("lightning", "xl", "text", "euler", steps=4, guidance_scale=0.0, loras=[["xl/peft", 1.0]], scheduler_options=TRAILING),
    # Its one step predicts the picture itself.
    runs.run("lightning_one", "xl", "text", "euler", steps=1, guidance_scale=0.0, loras=[["xl/peft", 1.0]],
             scheduler_options=dict(timestep_spacing="trailing", prediction_type="sample")),
    # Hyper-SD: DDIM, trailing, no guidance.
    runs.run("hyper", "xl", "text", "ddim", steps=2, guidance_scale=0.0, loras=[["xl/peft", 0.5]], scheduler_options=TRAILING),
    # LCM-LoRA: LCM's own spread, of fewer timesteps here than the 50 of the published ones.
    runs.run("lcm", "text", "text", "lcm", steps=4, guidance_scale=1.0, loras=[["text/peft", 1.0]],
             scheduler_options=dict(original_inference_steps=25)),
    # A finetune to velocity and zero terminal SNR that does not say so.
    runs.run("velocity", "text", "text", "euler", steps=3, guidance_scale=4.0, loras=[], scheduler_options=dict(
        timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True)),
]


def make(folder: Path):
    out = {}
    for case in RUNS:
        pipe = lora.load_pipes(folder)[case["checkpoint"]]
        if case["loras"]:
            lora.apply(pipe, folder / "loras", case["loras"])
        pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder
        runs.one(case, pipe, type(pipe), out)
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "few_steps.safetensors")
    (folder / "few_steps.json").write_text(json.dumps(RUNS, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
