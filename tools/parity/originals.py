"""Which tensor of a file in its makers' layout each of diffusers' tensors is, as diffusers' own converters say:
`originals.py OUTPUT_FOLDER` writes `originals.json`.

The converters are given tensors whose rows are numbered, so that what they make of them shows where each row came from. For
each network: diffusers' name to the name in the file, the parts of its rows in their order (the first and how many), and the
number of parts that it has."""

import json
import math
import sys
from pathlib import Path

import torch
from diffusers.loaders import single_file_utils as converters

STEP = 1 << 17  # More rows than any tensor here has; below 2**24 every number is exact in f64.


def numbered(names):
    """`names`: to the number of rows."""
    return {name: (torch.arange(rows, dtype=torch.float64) + i * STEP)[:, None] for i, (name, rows) in enumerate(names.items())}


def parts(rows):
    """Runs of following numbers: first and length."""
    runs = []
    for value in rows:
        if runs and runs[-1][0] + runs[-1][1] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return runs


def sources(names, converted):
    names_in_order, result = list(names), {}
    for name, tensor in converted.items():
        rows = [int(value) for value in tensor.flatten().tolist()]
        original = names_in_order[rows[0] // STEP]
        runs = [[value % STEP, count] for value, count in parts(rows)]
        total = names[original]
        unit = math.gcd(total, *(number for run in runs for number in run))
        result[name] = [original, [[first // unit, count // unit] for first, count in runs], total // unit]
    return dict(sorted(result.items()))


def linear(names, name, rows=1):
    names[f"{name}.weight"] = names[f"{name}.bias"] = rows


def flux():
    names = {}
    for layer in ("img_in", "txt_in", "final_layer.linear"):
        linear(names, layer)
    for part in ("time_in", "vector_in", "guidance_in"):
        linear(names, f"{part}.in_layer")
        linear(names, f"{part}.out_layer")
    linear(names, "final_layer.adaLN_modulation.1", 2)
    for i in range(2):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            linear(names, f"{block}_mod.lin")
            linear(names, f"{block}_attn.qkv", 3)
            linear(names, f"{block}_attn.proj")
            linear(names, f"{block}_mlp.0")
            linear(names, f"{block}_mlp.2")
            for norm in ("query_norm", "key_norm"):
                names[f"{block}_attn.norm.{norm}.scale"] = 1
        block = f"single_blocks.{i}"
        linear(names, f"{block}.modulation.lin")
        linear(names, f"{block}.linear1", 7 * 3072)  # The converter knows the published width alone.
        linear(names, f"{block}.linear2")
        for norm in ("query_norm", "key_norm"):
            names[f"{block}.norm.{norm}.scale"] = 1
    return names, converters.convert_flux_transformer_checkpoint_to_diffusers(numbered(names))


def z_image():
    names = {"x_pad_token": 1, "cap_pad_token": 1, "cap_embedder.0.weight": 1}
    for layer in ("x_embedder", "cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear",
                  "final_layer.adaLN_modulation.1"):
        linear(names, layer)
    for block in ("layers.0", "layers.1", "noise_refiner.0", "context_refiner.0"):
        names[f"{block}.attention.qkv.weight"] = 3
        for layer in ("attention.out", "attention.q_norm", "attention.k_norm", "attention_norm1", "attention_norm2",
                      "ffn_norm1", "ffn_norm2", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"):
            names[f"{block}.{layer}.weight"] = 1
        if block != "context_refiner.0":
            linear(names, f"{block}.adaLN_modulation.0")
    return names, converters.convert_z_image_transformer_checkpoint_to_diffusers(numbered(names))


def vae():
    """Four blocks of one layer, of which one has another number of channels than that before it."""
    names = {}

    def resnet(name, shortcut):
        for layer in ("norm1", "conv1", "norm2", "conv2", *(["nin_shortcut"] if shortcut else [])):
            linear(names, f"{name}.{layer}")

    for coder in ("encoder", "decoder"):
        for layer in ("conv_in", "norm_out", "conv_out", *(f"mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out"))):
            linear(names, f"{coder}.{layer}")
        for i in (1, 2):
            resnet(f"{coder}.mid.block_{i}", False)
    for i in range(4):
        resnet(f"encoder.down.{i}.block.0", i == 2)
        for j in range(2):
            resnet(f"decoder.up.{i}.block.{j}", i == 1 and j == 0)
        if i < 3:
            linear(names, f"encoder.down.{i}.downsample.conv")
        if i > 0:
            linear(names, f"decoder.up.{i}.upsample.conv")
    config = dict(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
    return names, converters.convert_ldm_vae_checkpoint(numbered(names), config)


def make(folder: Path):
    networks = {"flux": flux(), "z_image": z_image(), "vae": vae()}
    found = {network: sources(*made) for network, made in networks.items()}
    for network, (names, _) in networks.items():
        left = set(names) - {original for original, _, _ in found[network].values()}
        assert not left, (network, left)
    rows = [f'"{network}": {{\n' + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in pairs.items()) + "\n}"
            for network, pairs in found.items()]
    (folder / "originals.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
