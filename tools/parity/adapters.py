"""Random adapters of LyCORIS' methods and DoRA for two of the small checkpoints, and runs with them:
`adapters.py OUTPUT_FOLDER`, where the checkpoints are.

LyCORIS makes the weights that its files stand for, and diffusers draws with them merged. A DoRA in peft's format is
loaded by diffusers itself.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import load_file, save_file

import runs
from lora import ATTENTION, layers_of, load_pipes, matrices, text_layers

RUNS = [
    runs.run("locon_tucker", "text", "text", "euler", steps=2, loras=[["text/locon", 1.0]]),
    runs.run("loha", "text", "text", "ddim", steps=2, loras=[["text/loha", 0.8]]),
    runs.run("lokr", "text", "text", "euler", steps=2, loras=[["text/lokr", 0.7]]),
    runs.run("dora_lycoris", "text", "text", "euler", steps=2, loras=[["text/dora", 1.0]]),
    runs.run("three_methods", "text", "text", "ddim", steps=2,
             loras=[["text/locon", 0.5], ["text/loha", -0.6], ["text/lokr", 0.9]]),
    runs.run("dora_peft", "xl", "text", "euler", steps=2, loras=[["xl/dora", 0.7]]),
]


def locon(name, layer, **more):
    return LoConModule(name, layer, 1.0, 3, 2.0, **more)


def loha(name, layer, rank=2, **more):
    return LohaModule(name, layer, 1.0, rank, 1.0, use_tucker=True, **more)


def lokr(name, layer, **more):
    return LokrModule(name, layer, 1.0, 2, 3.0, factor=4, **more)


# What the layers of a file get by turns: how the module is made.
METHODS = {
    "locon": [lambda name, layer: locon(name, layer, use_tucker=True)],
    # The product of its ranks is less than the layers' widths, and is not.
    "loha": [loha, lambda name, layer: loha(name, layer, rank=4)],
    "lokr": [
        lambda name, layer: lokr(name, layer),
        lambda name, layer: LokrModule(name, layer, 1.0, 1, 0.5, factor=4, decompose_both=True),
        lambda name, layer: lokr(name, layer, full_matrix=True),
        lambda name, layer: LokrModule(name, layer, 1.0, 1, 0.7, factor=2, use_tucker=True),
    ],
    "dora": [
        lambda name, layer: locon(name, layer, weight_decompose=True, wd_on_out=True),
        lambda name, layer: locon(name, layer, weight_decompose=True, wd_on_out=False),
        lambda name, layer: loha(name, layer, weight_decompose=True, wd_on_out=True),
        lambda name, layer: lokr(name, layer, weight_decompose=True, wd_on_out=False),
    ],
}


def layers(pipe, method):
    """Kohya's names, and the layers: some of the UNet's linear layers and convolutions, and of the text encoder's."""
    convolutions = lambda name: "resnets" in name or "samplers" in name
    parts = [("lora_unet_", pipe.unet, [name for name, _ in layers_of(pipe.unet, lambda name: name.endswith(ATTENTION))]),
             ("lora_unet_", pipe.unet, [name for name, _ in layers_of(pipe.unet, convolutions)]),
             ("lora_te_text_model_", pipe.text_encoder, [name for name, _ in text_layers(pipe.text_encoder)])]
    for prefix, model, names in parts:
        for name in names[::4] if method != "locon" else names[1::4]:
            yield prefix + name.removeprefix("text_model.").replace(".", "_"), model.get_submodule(name)


@torch.no_grad()
def randomised(module, layer, generator):
    """Parts that change the layer's output by some tenths, as a file in half precision has them."""
    for name, part in module.named_parameters():
        if name != "dora_scale":
            part.copy_(torch.randn(part.shape, generator=generator))
    change = 0.3 * layer.weight.std() / added(module).std()
    parts = dict(module.named_parameters())
    first = next(name for name in ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a") if name in parts)
    parts[first].mul_(change)
    if "dora_scale" in parts:
        parts["dora_scale"].mul_(0.8 + 0.4 * torch.rand(parts["dora_scale"].shape, generator=generator))
    for part in parts.values():
        part.copy_(part.half().float())


def added(module):
    """What a module adds to its layer's weight, at multiplier 1."""
    if isinstance(module, LoConModule):
        return module.make_weight() * module.scale
    return module.get_weight(module.shape)


@torch.no_grad()
def merged(module, layer, strength):
    """The layer's weight with the module: what its forward pass multiplies with, `strength` times."""
    weight = layer.weight
    if module.wd:
        assert strength == 1.0, "LyCORIS and peft scale a DoRA in different ways"
        return module.apply_weight_decompose(weight + added(module), 1.0)
    return weight + strength * added(module)


def modules(pipe, method, generator):
    """Name, layer and module of each layer of a file."""
    for i, (name, layer) in enumerate(layers(pipe, method)):
        makers = METHODS[method]
        module = makers[i % len(makers)](name, layer)
        randomised(module, layer, generator)
        yield name, layer, module


def seeded(method):
    return torch.Generator().manual_seed(1000 + list(METHODS).index(method))


def peft_dora(pipe):
    """Half the attention of SDXL's UNet and text encoders, with the lengths of rows that peft names."""
    generator, out = torch.Generator().manual_seed(2000), {}
    for component, parts in (("unet", layers_of(pipe.unet, lambda name: name.endswith(ATTENTION))[::2]),
                             ("text_encoder", text_layers(pipe.text_encoder)[::2]),
                             ("text_encoder_2", text_layers(pipe.text_encoder_2)[::2])):
        for name, weight in parts:
            stem = f"{component}.{name}"
            out[f"{stem}.lora_A.weight"], out[f"{stem}.lora_B.weight"] = matrices(weight, 3, generator)
            lengths = weight.norm(dim=1) * (0.8 + 0.4 * torch.rand(weight.shape[0], generator=generator))
            out[f"{stem}.lora_magnitude_vector"] = lengths
    return {key: value.detach().half().contiguous() for key, value in out.items()}


def write(folder: Path, pipes):
    for checkpoint in ("text", "xl"):
        (folder / checkpoint).mkdir(parents=True, exist_ok=True)
    for method in METHODS:
        tensors = {}
        for name, _, module in modules(pipes["text"], method, seeded(method)):
            for key, value in module.custom_state_dict().items():
                value = value.detach()
                tensors[f"{name}.{key}"] = value.float() if key == "alpha" else value.half().contiguous()
        save_file(tensors, folder / "text" / f"{method}.safetensors")
    save_file(peft_dora(pipes["xl"]), folder / "xl/dora.safetensors")


@torch.no_grad()
def lengths(pipe, adapter, tensors):
    """Every length of rows is in its layer.

    diffusers 0.42.1 with transformers 5 loses those of text encoders: they stay as peft made them for a new adapter.
    """
    wanted = {key for key in tensors if key.endswith(".lora_magnitude_vector")}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        for name, module in getattr(pipe, component).named_modules():
            if adapter not in getattr(module, "lora_magnitude_vector", ()):
                continue
            key = f"{component}.{name}.lora_magnitude_vector"
            own = module.lora_magnitude_vector[adapter].weight
            assert component != "unet" or torch.equal(own, tensors[key].float()), key
            own.copy_(tensors[key].float())
            wanted.remove(key)
    assert not wanted, wanted


@torch.no_grad()
def apply(pipe, folder: Path, loras):
    """Merges LyCORIS' files into the weights, and has diffusers load peft's."""
    weights = {}
    for name, strength in loras:
        checkpoint, method = name.split("/")
        if checkpoint == "xl":
            pipe.load_lora_weights(folder / checkpoint, weight_name=f"{method}.safetensors", adapter_name=method)
            pipe.set_adapters([method], [strength])
            lengths(pipe, method, load_file(folder / f"{name}.safetensors"))
            continue
        for _, layer, module in modules(pipe, method, seeded(method)):
            added_here = merged(module, layer, strength) - layer.weight
            weights[layer] = weights.get(layer, 0) + added_here
    for layer, more in weights.items():
        layer.weight.add_(more)
    # clip_skip in diffusers 0.42.1 asks for an attribute that transformers 5 no longer has.
    pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder


def make(folder: Path):
    write(folder / "loras", load_pipes(folder))
    out = {}
    for case in RUNS:
        pipe = load_pipes(folder)[case["checkpoint"]]
        apply(pipe, folder / "loras", case["loras"])
        runs.one(case, pipe, type(pipe), out)
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "adapters.safetensors")
    (folder / "adapters.json").write_text(json.dumps(RUNS, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
