"""Each scheduler over many configurations, on fixed numbers in place of a network."""

import itertools
import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

CLASSES = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "euler_a": EulerAncestralDiscreteScheduler}
SIZE = 8


def configurations():
    for spacing, offset in (("leading", 1), ("leading", 0), ("trailing", 0), ("linspace", 0), (None, 0)):
        for schedule, prediction in (
            ("scaled_linear", "epsilon"), ("linear", "v_prediction"), ("squaredcos_cap_v2", "sample")):
            yield dict(timestep_spacing=spacing, steps_offset=offset, beta_schedule=schedule, prediction_type=prediction)
    yield dict(clip_sample=False, set_alpha_to_one=False, beta_schedule="scaled_linear")
    yield dict(clip_sample=True, clip_sample_range=0.5)
    yield dict(final_sigmas_type="sigma_min")
    yield dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    yield dict(num_train_timesteps=50, beta_start=0.001, beta_end=0.2)
    yield dict(num_train_timesteps=40, trained_betas=[0.001 * (i + 1) for i in range(40)])


def make(folder: Path):
    generator = torch.Generator().manual_seed(5)
    start, noise = (torch.randn(SIZE, generator=generator) for _ in range(2))
    outputs = torch.randn(7, SIZE, generator=generator)
    cases = []
    for config, (name, cls), steps in itertools.product(configurations(), CLASSES.items(), (1, 7)):
        config = {key: value for key, value in config.items() if value is not None}
        if name == "euler_a" and config.get("prediction_type") == "sample":
            continue
        scheduler = cls.from_config({"_class_name": "PNDMScheduler", **config})
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) != steps:
            continue
        first = steps // 3
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        x = scheduler.add_noise(start[None], noise[None], scheduler.timesteps[first : first + 1])
        begun = x
        generator = torch.Generator().manual_seed(3)
        scaled = []
        for i in range(first, steps):
            t = scheduler.timesteps[i]
            scaled.append(scheduler.scale_model_input(x, t)[0].tolist())
            x = scheduler.step(outputs[i][None], t, x, generator=generator, return_dict=False)[0]
        cases.append(dict(
            scheduler=name, config={"_class_name": cls.__name__, **config}, steps=steps, first=first,
            timesteps=[float(t) for t in scheduler.timesteps], initial_scale=float(scheduler.init_noise_sigma),
            begun=begun[0].tolist(), scaled_last=scaled[-1], end=x[0].tolist()))
    data = dict(start=start.tolist(), noise=noise.tolist(), outputs=outputs.tolist(), cases=cases)
    (folder / "samplers.json").write_text(json.dumps(data, separators=(",", ":")))
    print(f"  {len(cases)} sampler cases")
