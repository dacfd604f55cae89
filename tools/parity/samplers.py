"""Each scheduler over many configurations, on fixed numbers in place of a network.

The grid is whole: every kind, over 1, 2, 4, 20 and 50 steps, every timestep spacing and every prediction, from the
first step and from a third of the way (as a picture made from another begins). What one kind alone reads is varied on
its own. Where diffusers fails or gives NaN the case says so, and the Rust side must refuse.
"""

import itertools
import json
import math
from pathlib import Path

import diffusers
import torch

PLAIN = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "pndm": "PNDMScheduler",
         "euler_a": "EulerAncestralDiscreteScheduler", "lcm": "LCMScheduler"}
SPREAD = {"euler": ("EulerDiscreteScheduler", {}), "heun": ("HeunDiscreteScheduler", {}),
          "dpmpp_2m": ("DPMSolverMultistepScheduler", dict(algorithm_type="dpmsolver++")),
          "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++")),
          "unipc": ("UniPCMultistepScheduler", {})}
SPREADS = {"": {}, "_karras": dict(use_karras_sigmas=True), "_exponential": dict(use_exponential_sigmas=True)}

KINDS = {name: (cls, {}) for name, cls in PLAIN.items()}
KINDS |= {name + suffix: (cls, switches | more)
          for name, (cls, switches) in SPREAD.items() for suffix, more in SPREADS.items()}

SIZE = 4
STEPS = (1, 2, 4, 20, 50)
BASE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False,
            skip_prk_steps=True)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SIGMAS = [name for name in KINDS if name.startswith(("euler", "heun", "dpmpp", "unipc"))]
MULTISTEP = [name for name in KINDS if name.startswith(("dpmpp", "unipc"))]


def grid():
    for spacing, prediction in itertools.product(("leading", "trailing", "linspace"), PREDICTIONS):
        for name, steps in itertools.product(KINDS, STEPS):
            yield name, steps, BASE | dict(timestep_spacing=spacing, prediction_type=prediction)


def variations():
    """Names, step counts, changes to BASE; None takes a key away."""
    silent = {key: None for key in BASE}
    yield KINDS, (1, 7), silent
    yield KINDS, (7, 50), silent | dict(beta_schedule="squaredcos_cap_v2")
    yield KINDS, (7,), dict(beta_schedule="linear", steps_offset=0, timestep_spacing="leading")
    yield KINDS, (7,), dict(num_train_timesteps=50, beta_start=0.001, beta_end=0.2, original_inference_steps=25)
    yield KINDS, (7,), dict(num_train_timesteps=40, trained_betas=[0.001 * (i + 1) for i in range(40)],
                            original_inference_steps=20)
    yield KINDS, (48,), dict(timestep_spacing="trailing")
    for prediction, spacing in itertools.product(PREDICTIONS, ("trailing", "leading")):
        yield KINDS, (1, 4, 20), dict(rescale_betas_zero_snr=True, prediction_type=prediction, timestep_spacing=spacing)
    yield KINDS, (20,), dict(clip_sample=True, clip_sample_range=0.5, set_alpha_to_one=False)
    yield KINDS, (20,), dict(set_alpha_to_one=True)
    yield SIGMAS, (1, 4, 20), dict(final_sigmas_type="sigma_min")
    yield SIGMAS, (7,), dict(sigma_min=0.1, sigma_max=10.0)
    for prediction in PREDICTIONS:
        yield ["pndm"], STEPS, dict(skip_prk_steps=False, prediction_type=prediction)
        yield ["pndm"], (20,), dict(skip_prk_steps=False, prediction_type=prediction, timestep_spacing="trailing")
    for variance in ("fixed_small", "fixed_small_log", "fixed_large"):
        yield ["ddpm"], (1, 4, 20), dict(variance_type=variance)
    for order, final, end in itertools.product((1, 2, 3), (True, False), ("zero", "sigma_min")):
        more = dict(solver_order=order, lower_order_final=final, final_sigmas_type=end)
        for solver in ("midpoint", "heun", "bh1", "bh2"):
            yield MULTISTEP, (1, 2, 4, 20), more | dict(solver_type=solver)
    yield MULTISTEP, (4, 20), dict(euler_at_final=True, final_sigmas_type="sigma_min")
    yield MULTISTEP, (4, 20), dict(lambda_min_clipped=-5.1, beta_schedule="squaredcos_cap_v2")
    yield MULTISTEP, (4,), dict(lambda_min_clipped=-5.1, beta_schedule="squaredcos_cap_v2",
                                timestep_spacing="trailing")
    yield ["lcm"], (1, 4), dict(original_inference_steps=100, timestep_scaling=5.0)
    yield ["lcm"], (60,), {}


def configurations():
    yield from grid()
    for names, counts, change in variations():
        config = {key: value for key, value in (BASE | change).items() if value is not None}
        for name, steps in itertools.product(names, counts):
            yield name, steps, config


class Table(list):
    """Distinct values, by their place."""

    def __init__(self):
        self.places = {}

    def place(self, value):
        key = json.dumps(value)
        if key not in self.places:
            self.places[key] = len(self)
            self.append(value)
        return self.places[key]


def run(name, steps, config, part, start, noise, outputs):
    cls, switches = KINDS[name]
    cls = getattr(diffusers, cls)
    scheduler = cls.from_config({"_class_name": cls.__name__, **config}, **switches)
    scheduler.set_timesteps(steps)
    first = int(steps * part) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    x = scheduler.add_noise(start[None], noise[None], scheduler.timesteps[first : first + 1])
    result = dict(initial_scale=float(scheduler.init_noise_sigma), begun=x[0].tolist())
    generator = torch.Generator().manual_seed(3)
    takes_generator = "generator" in scheduler.step.__code__.co_varnames
    for i, t in enumerate(scheduler.timesteps[first:], first):
        scaled = scheduler.scale_model_input(x, t)
        more = dict(generator=generator) if takes_generator else {}
        x = scheduler.step(outputs[i][None], t, x, return_dict=False, **more)[0]
    result |= dict(scaled_last=scaled[0].tolist(), end=x[0].tolist(), first=first)
    numbers = [result["initial_scale"], *result["begun"], *result["scaled_last"], *result["end"]]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not finite")
    return result, [float(t) for t in scheduler.timesteps]


def shorten(value):
    """Nine digits are enough for any f32."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    return [shorten(item) for item in value] if isinstance(value, list) else value


def make(folder: Path):
    generator = torch.Generator().manual_seed(5)
    start, noise = (torch.randn(SIZE, generator=generator) for _ in range(2))
    outputs = torch.randn(110, SIZE, generator=generator)
    configs, schedules, cases, refused = Table(), Table(), [], []
    for name, steps, config in configurations():
        where = [name, configs.place(config), steps]
        try:
            parts = [run(name, steps, config, part, start, noise, outputs)
                     for part in ((0.0, 0.3) if steps > 3 else (0.0,))]
        except Exception as error:
            refused.append(where)
            print(f"  refused: {name} {steps} steps {config}: {type(error).__name__} {str(error)[:80]}")
            continue
        for result, timesteps in parts:
            numbers = [result["initial_scale"], *result["begun"], *result["scaled_last"], *result["end"]]
            cases.append([*where, result["first"], schedules.place(timesteps), shorten(numbers)])
    data = dict(start=start.tolist(), noise=noise.tolist(), outputs=outputs.tolist(), configs=configs,
                schedules=shorten(schedules), cases=cases, refused=refused)
    path = folder / "samplers.json"
    path.write_text(json.dumps(data, separators=(",", ":")))
    print(f"  {len(cases)} sampler cases, {len(refused)} refused, {path.stat().st_size} bytes")
