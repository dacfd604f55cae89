"""The networks of a checkpoint as functions of tensors, and their conversion for OpenVINO:

    networks.py MODEL_FOLDER INPUTS OUTPUT_FOLDER

writes `unet`, `vae` and `text` with f32 weights and the shapes of the inputs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch

PARTS = ("unet", "vae", "text")
INPUTS = dict(
    unet=("unet.latents", "unet.timesteps", "unet.text"), vae=("vae.latents",), text=("text.ids",))


def inputs(part: str, tensors: Mapping) -> tuple:
    return tuple(tensors[name] for name in INPUTS[part])


class UNet(torch.nn.Module):
    def __init__(self, folder: Path) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        self.network = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32)

    def forward(self, latents, timesteps, text):
        return self.network(latents, timesteps, text, return_dict=False)[0]


class Decoder(torch.nn.Module):
    def __init__(self, folder: Path) -> None:
        from diffusers import AutoencoderKL

        super().__init__()
        self.network = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32)
        del self.network.encoder

    def forward(self, latents):
        return self.network.decode(latents, return_dict=False)[0]


class TextEncoder(torch.nn.Module):
    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTextModel

        super().__init__()
        self.network = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)

    def forward(self, ids):
        return self.network(ids).last_hidden_state


def load(folder: Path, part: str) -> torch.nn.Module:
    return dict(unet=UNet, vae=Decoder, text=TextEncoder)[part](folder).eval()


@torch.no_grad()
def convert(folder: Path, tensors: Mapping, output: Path) -> None:
    import openvino

    for part in PARTS:
        if (output / f"{part}.xml").exists():
            continue
        examples = inputs(part, tensors)
        model = openvino.convert_model(load(folder, part), example_input=examples)
        model.reshape(dict(zip(model.inputs, (list(x.shape) for x in examples))))
        # The .xml comes last: without it a conversion that was interrupted begins anew.
        openvino.save_model(model, output / f"{part}.part.xml", compress_to_fp16=False)
        (output / f"{part}.part.bin").rename(output / f"{part}.bin")
        (output / f"{part}.part.xml").rename(output / f"{part}.xml")


if __name__ == "__main__":
    import warnings

    from safetensors.torch import load_file

    # Tracing warns of every comparison of sizes, which are always the same here.
    warnings.simplefilter("ignore")

    convert(Path(sys.argv[1]), load_file(sys.argv[2]), Path(sys.argv[3]))
