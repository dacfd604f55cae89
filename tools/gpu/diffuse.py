"""Whole pictures by a pipeline of diffusers, behind lines as `benches/parts.rs --serve` understands them:

    diffuse.py --model FOLDER --device cuda|cpu --dtype f16|bf16|f32 [--compile]

`draw PICTURES STEPS SIDE [FILE]` answers seconds, and the most memory that PyTorch has had of the GPU meanwhile, in bytes.
`profile SAMPLES SIDE` answers the kernels of one pass of the UNet: name, microseconds and launches, the longest first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy
import torch

# What `spec` in benches/parts.rs asks ours for.
RUN = dict(prompt="a red circle on the blue", negative_prompt="the circle", guidance_scale=7.5)
DTYPES = dict(f16=torch.float16, bf16=torch.bfloat16, f32=torch.float32)
EMBEDDINGS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
# Kernels that a profile names; the others are added up.
NAMED = 25


class Pictures:
    """A pipeline on its device."""

    def __init__(self, args: argparse.Namespace) -> None:
        from diffusers import DiffusionPipeline

        self.device, self.dtype = args.device, DTYPES[args.dtype]
        self.pipe = DiffusionPipeline.from_pretrained(args.model, dtype=self.dtype).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        # One picture after the other: the decoder's activations of many do not fit.
        self.pipe.vae.enable_slicing()
        self.is_flux = hasattr(self.pipe, "transformer")
        if args.compile:
            torch._dynamo.config.recompile_limit = 64
            if self.is_flux:
                self.pipe.transformer = torch.compile(self.pipe.transformer, fullgraph=True, dynamic=False)
            else:
                self.pipe.unet.to(memory_format=torch.channels_last)
                self.pipe.unet = torch.compile(self.pipe.unet, fullgraph=True, dynamic=False)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def now(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def embedded(self, pictures: int) -> dict[str, object]:
        prompts = [RUN["prompt"]] * pictures
        if self.is_flux:
            embeds, pooled, _ = self.pipe.encode_prompt(prompt=prompts, device=self.device)
            return dict(prompt_embeds=embeds, pooled_prompt_embeds=pooled)
        values = self.pipe.encode_prompt(
            prompt=prompts, negative_prompt=[RUN["negative_prompt"]] * pictures, device=self.device,
            num_images_per_prompt=1, do_classifier_free_guidance=True)
        return dict(zip(EMBEDDINGS, values)) | dict(guidance_scale=RUN["guidance_scale"])

    def draw(self, pictures: int, steps: int, side: int, path: str | None = None) -> dict[str, object]:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        begun = self.now()
        embedded = self.embedded(pictures)
        encoded = denoised = self.now()

        def keep_time(_pipe, _step, _timestep, values):
            nonlocal denoised
            denoised = self.now()
            return values

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(pictures)]
        images = self.pipe(
            **embedded, num_inference_steps=steps, width=side, height=side, output_type="np", generator=generators,
            callback_on_step_end=keep_time).images
        finished = self.now()
        if path:
            from safetensors.numpy import save_file

            save_file({"output": numpy.ascontiguousarray((images * 255).round().astype(numpy.uint8))}, path)
        answer: dict[str, object] = dict(
            begin=encoded - begun, steps=denoised - encoded, finish=finished - denoised)
        if self.on_gpu:
            answer["allocated"] = torch.cuda.max_memory_allocated()
            # What is kept for the next call would be missing for the other processes on the GPU.
            torch.cuda.empty_cache()
        return answer

    def unet_inputs(self, samples: int, side: int) -> dict[str, object]:
        config = self.pipe.unet.config
        latents = side // self.pipe.vae_scale_factor

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, device=self.device, dtype=self.dtype)

        inputs: dict[str, object] = dict(
            sample=normal(samples, config.in_channels, latents, latents), timestep=500,
            encoder_hidden_states=normal(samples, 77, config.cross_attention_dim), return_dict=False)
        if config.addition_embed_type == "text_time":
            pooled = self.pipe.text_encoder_2.config.projection_dim
            inputs["added_cond_kwargs"] = dict(
                text_embeds=normal(samples, pooled), time_ids=torch.full((samples, 6), side, device=self.device))
        return inputs

    def profile(self, samples: int, side: int) -> dict[str, object]:
        from torch.profiler import ProfilerActivity, profile

        inputs = self.unet_inputs(samples, side)
        for _ in range(2):
            self.pipe.unet(**inputs)
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.on_gpu else [])
        self.now()
        with profile(activities=activities) as seen:
            self.pipe.unet(**inputs)
            self.now()
        # On a GPU its kernels, on a CPU the operations.
        events = list(seen.key_averages())
        if self.on_gpu:
            events = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
        kernels = []
        for event in events:
            microseconds = event.self_device_time_total if self.on_gpu else event.self_cpu_time_total
            kernels.append(dict(name=event.key, microseconds=microseconds, launches=event.count))
        kernels.sort(key=lambda kernel: -kernel["microseconds"])
        return dict(
            kernels=kernels[:NAMED], microseconds=sum(kernel["microseconds"] for kernel in kernels),
            launches=sum(kernel["launches"] for kernel in kernels))


def answer(pictures: Pictures, line: str) -> dict[str, object]:
    match line.split():
        case ["draw", count, steps, side, *path]:
            return pictures.draw(int(count), int(steps), int(side), *path)
        case ["profile", samples, side]:
            return pictures.profile(int(samples), int(side))
    raise ValueError(f"`{line.strip()}` is neither draw nor profile")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="f32", choices=list(DTYPES))
    parser.add_argument("--compile", action="store_true")
    pictures = Pictures(parser.parse_args())
    print(json.dumps(dict(ready=True)), flush=True)
    for line in sys.stdin:
        try:
            said = answer(pictures, line)
        except Exception as error:  # whatever a library throws is an answer
            said = dict(error=f"{type(error).__name__}: {error}"[:500])
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
