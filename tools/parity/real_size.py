"""A random checkpoint of real size, and two steps of diffusers with it:

    real_size.py sd15|sdxl OUTPUT_FOLDER [SIDE]


Saves the checkpoint in f16, runs it in f32, and prints seconds and peak memory of diffusers. What it made is compared by
`PARITY_REAL=OUTPUT_FOLDER cargo test --test model parity::real_size -- --ignored --nocapture`. Nothing of it is committed: 2 and
7 GB."""

import gc
import json
import resource
import sys
import time
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import families

BETAS = families.BETAS
RUN = dict(
    prompt="a red circle on the blue", negative_prompt="the circle", guidance_scale=7.5, seed=42, steps=2)


def text_encoder(cls, width, layers, heads, act, projection):
    return cls(CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=77, hidden_act=act, projection_dim=projection))


def autoencoder(**more):
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **more)


def sd15():
    """The sizes of stable-diffusion-v1-5: 860 million parameters in the UNet."""
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    parts = dict(
        unet=unet, vae=autoencoder(scaling_factor=0.18215), tokenizer=families.tokenizer(),
        text_encoder=text_encoder(CLIPTextModel, 768, 12, 12, "quick_gelu", 768))
    return StableDiffusionPipeline(
        **parts, scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def sdxl():
    """The sizes of stable-diffusion-xl-base-1.0: 2.6 billion parameters in the UNet."""
    down, cross_down, up, cross_up = families.DOWN, families.CROSS_DOWN, families.UP, families.CROSS_UP
    unet = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), down_block_types=(down, cross_down, cross_down),
        up_block_types=(cross_up, cross_up, up), attention_head_dim=[5, 10, 20], cross_attention_dim=2048,
        transformer_layers_per_block=[1, 2, 10], use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
    return StableDiffusionXLPipeline(
        unet=unet, vae=autoencoder(scaling_factor=0.13025, force_upcast=True), tokenizer=families.tokenizer(),
        tokenizer_2=families.tokenizer("!"),
        text_encoder=text_encoder(CLIPTextModel, 768, 12, 12, "quick_gelu", 768),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, 1280, 32, 20, "gelu", 1280),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1))


@torch.no_grad()
def save(make, folder: Path, dtype=torch.float16):
    torch.manual_seed(7)
    pipe = make()
    # Fresh weights predict almost nothing; a network that matters is one whose output has the size of noise.
    pipe.unet.conv_out.weight *= 40
    pipe.vae.decoder.conv_out.weight *= 4
    pipe.to(dtype).save_pretrained(folder)


@torch.no_grad()
def reference(folder: Path, side: int):
    started = time.perf_counter()
    index = json.loads((folder / "model_index.json").read_text())
    cls = StableDiffusionXLPipeline if "XL" in index["_class_name"] else StableDiffusionPipeline
    pipe = cls.from_pretrained(folder, torch_dtype=torch.float32)
    loaded = time.perf_counter()
    latents, times = [], [time.perf_counter()]

    def keep(_pipe, _i, _t, values):
        latents.append(values["latents"].clone())
        times.append(time.perf_counter())
        return values

    picture = pipe(
        RUN["prompt"], negative_prompt=RUN["negative_prompt"], num_inference_steps=RUN["steps"],
        guidance_scale=RUN["guidance_scale"], width=side, height=side, output_type="np",
        generator=torch.Generator().manual_seed(RUN["seed"]), callback_on_step_end=keep).images[0]
    ended = time.perf_counter()
    picture = torch.from_numpy((picture * 255).round().astype("uint8")).contiguous()
    save_file({"latents": torch.cat(latents), "image": picture}, folder / "reference.safetensors")
    steps = [f"{b - a:.1f}" for a, b in zip(times, times[1:])]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"diffusers f32, {side} pixels, {torch.get_num_threads()} threads: load {loaded - started:.1f} s, steps {', '.join(steps)} s "
        f"(the first with the prompts), decode {ended - times[-1]:.1f} s, peak {peak:.1f} GiB; "
        f"latents' std {latents[-1].std():.2f}, picture's std {picture.float().std():.1f}")


if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if not (folder / "model_index.json").exists():
        save(dict(sd15=sd15, sdxl=sdxl)[kind], folder)
        gc.collect()
        sys.exit("saved; run again for the reference, so that its memory is measured alone")
    reference(folder, int(sys.argv[3]) if len(sys.argv) > 3 else 512)
