"""Checkpoints of real size that take no space: every tensor that the networks have, all zeros, in a sparse file.

Configurations are those of the small checkpoints in tests/data/parity with the published sizes in them; names and
shapes follow from a configuration, in diffusers' layout."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from pathlib import Path

SMALL = Path(__file__).resolve().parents[2] / "tests/data/parity"
BYTES = dict(F16=2, BF16=2, F32=4)


class Tensors(dict):
    """Names to shapes."""

    def linear(self, name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        self[f"{name}.weight"] = [outputs, inputs]
        if bias:
            self[f"{name}.bias"] = [outputs]

    def conv(self, name: str, inputs: int, outputs: int, side: int = 3) -> None:
        self[f"{name}.weight"] = [outputs, inputs, side, side]
        self[f"{name}.bias"] = [outputs]

    def norm(self, name: str, width: int) -> None:
        self[f"{name}.weight"] = [width]
        self[f"{name}.bias"] = [width]

    def resnet(self, name: str, inputs: int, outputs: int, time: int | None = None) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", inputs, outputs)
        if time:
            self.linear(f"{name}.time_emb_proj", time, outputs)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            self.conv(f"{name}.conv_shortcut", inputs, outputs, 1)


def listed(value, count: int) -> list:
    return list(value) if isinstance(value, list) else [value] * count


def unet(config: dict) -> Tensors:
    tensors, channels = Tensors(), config["block_out_channels"]
    count, first, last = len(channels), channels[0], channels[-1]
    time, layers = 4 * first, listed(config["layers_per_block"], len(channels))
    depths = listed(config["transformer_layers_per_block"], count)

    def transformer(name: str, width: int, depth: int) -> None:
        project = tensors.linear if config["use_linear_projection"] else lambda *of: tensors.conv(*of, 1)
        tensors.norm(f"{name}.norm", width)
        project(f"{name}.proj_in", width, width)
        project(f"{name}.proj_out", width, width)
        for i in range(depth):
            block = f"{name}.transformer_blocks.{i}"
            for norm in ("norm1", "norm2", "norm3"):
                tensors.norm(f"{block}.{norm}", width)
            for attention, context in (("attn1", width), ("attn2", config["cross_attention_dim"])):
                tensors.linear(f"{block}.{attention}.to_q", width, width, bias=False)
                tensors.linear(f"{block}.{attention}.to_k", context, width, bias=False)
                tensors.linear(f"{block}.{attention}.to_v", context, width, bias=False)
                tensors.linear(f"{block}.{attention}.to_out.0", width, width)
            tensors.linear(f"{block}.ff.net.0.proj", width, 8 * width)
            tensors.linear(f"{block}.ff.net.2", 4 * width, width)

    tensors.linear("time_embedding.linear_1", first, time)
    tensors.linear("time_embedding.linear_2", time, time)
    if config["addition_embed_type"]:
        tensors.linear("add_embedding.linear_1", config["projection_class_embeddings_input_dim"], time)
        tensors.linear("add_embedding.linear_2", time, time)
    tensors.conv("conv_in", config["in_channels"], first)
    tensors.norm("conv_norm_out", first)
    tensors.conv("conv_out", first, config["out_channels"])

    for i, (kind, outputs) in enumerate(zip(config["down_block_types"], channels)):
        inputs = channels[max(i - 1, 0)]
        for j in range(layers[i]):
            tensors.resnet(f"down_blocks.{i}.resnets.{j}", outputs if j else inputs, outputs, time)
            if kind.startswith("CrossAttn"):
                transformer(f"down_blocks.{i}.attentions.{j}", outputs, depths[i])
        if i + 1 < count:
            tensors.conv(f"down_blocks.{i}.downsamplers.0.conv", outputs, outputs)
    tensors.resnet("mid_block.resnets.0", last, last, time)
    transformer("mid_block.attentions.0", last, depths[-1])
    tensors.resnet("mid_block.resnets.1", last, last, time)
    for i, kind in enumerate(config["up_block_types"]):
        level = count - 1 - i
        outputs, below, skip = channels[level], channels[min(level + 1, count - 1)], channels[max(level - 1, 0)]
        for j in range(layers[level] + 1):
            inputs = (outputs if j else below) + (skip if j == layers[level] else outputs)
            tensors.resnet(f"up_blocks.{i}.resnets.{j}", inputs, outputs, time)
            if kind.startswith("CrossAttn"):
                transformer(f"up_blocks.{i}.attentions.{j}", outputs, depths[level])
        if i + 1 < count:
            tensors.conv(f"up_blocks.{i}.upsamplers.0.conv", outputs, outputs)
    return tensors


def vae(config: dict) -> Tensors:
    tensors, channels, latent = Tensors(), config["block_out_channels"], config["latent_channels"]
    count, layers = len(channels), config["layers_per_block"]

    def mid(name: str) -> None:
        width = channels[-1]
        tensors.resnet(f"{name}.mid_block.resnets.0", width, width)
        tensors.norm(f"{name}.mid_block.attentions.0.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            tensors.linear(f"{name}.mid_block.attentions.0.{part}", width, width)
        tensors.resnet(f"{name}.mid_block.resnets.1", width, width)

    def half(name: str, inputs: int, sizes: list[int], kind: str, each: int, outputs: int) -> None:
        tensors.conv(f"{name}.conv_in", inputs, sizes[0])
        mid(name)
        for i, width in enumerate(sizes):
            for j in range(each):
                tensors.resnet(f"{name}.{kind}_blocks.{i}.resnets.{j}", width if j else sizes[max(i - 1, 0)], width)
            if i + 1 < count:
                tensors.conv(f"{name}.{kind}_blocks.{i}.{kind}samplers.0.conv", width, width)
        tensors.norm(f"{name}.conv_norm_out", sizes[-1])
        tensors.conv(f"{name}.conv_out", sizes[-1], outputs)

    half("encoder", 3, channels, "down", layers, 2 * latent)
    half("decoder", latent, channels[::-1], "up", layers + 1, 3)
    if config.get("use_quant_conv", True):
        tensors.conv("quant_conv", 2 * latent, 2 * latent, 1)
    if config.get("use_post_quant_conv", True):
        tensors.conv("post_quant_conv", latent, latent, 1)
    return tensors


def clip(config: dict) -> Tensors:
    tensors, width = Tensors(), config["hidden_size"]
    tensors["text_model.embeddings.token_embedding.weight"] = [config["vocab_size"], width]
    tensors["text_model.embeddings.position_embedding.weight"] = [config["max_position_embeddings"], width]
    for i in range(config["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors.linear(f"{layer}.self_attn.{part}", width, width)
        tensors.linear(f"{layer}.mlp.fc1", width, config["intermediate_size"])
        tensors.linear(f"{layer}.mlp.fc2", config["intermediate_size"], width)
        tensors.norm(f"{layer}.layer_norm1", width)
        tensors.norm(f"{layer}.layer_norm2", width)
    tensors.norm("text_model.final_layer_norm", width)
    if "WithProjection" in config["architectures"][0]:
        tensors.linear("text_projection", width, config["projection_dim"], bias=False)
    return tensors


def t5(config: dict) -> Tensors:
    tensors, width, inner = Tensors(), config["d_model"], config["d_ff"]
    heads = config["num_heads"] * config["d_kv"]
    tensors["shared.weight"] = [config["vocab_size"], width]
    for i in range(config["num_layers"]):
        attention, dense = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        for part in "qkv":
            tensors.linear(f"{attention}.SelfAttention.{part}", width, heads, bias=False)
        tensors.linear(f"{attention}.SelfAttention.o", heads, width, bias=False)
        tensors[f"{attention}.layer_norm.weight"] = [width]
        for part in ("wi_0", "wi_1"):
            tensors.linear(f"{dense}.DenseReluDense.{part}", width, inner, bias=False)
        tensors.linear(f"{dense}.DenseReluDense.wo", inner, width, bias=False)
        tensors[f"{dense}.layer_norm.weight"] = [width]
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tensors[bias] = [config["relative_attention_num_buckets"], config["num_heads"]]
    tensors["encoder.final_layer_norm.weight"] = [width]
    return tensors


def flux(config: dict) -> Tensors:
    tensors, head = Tensors(), config["attention_head_dim"]
    width = head * config["num_attention_heads"]

    def embedding(name: str, inputs: int) -> None:
        tensors.linear(f"time_text_embed.{name}.linear_1", inputs, width)
        tensors.linear(f"time_text_embed.{name}.linear_2", width, width)

    def projections(block: str, parts: tuple[str, ...], norms: tuple[str, ...]) -> None:
        for part in parts:
            tensors.linear(f"{block}.attn.{part}", width, width)
        for norm in norms:
            tensors[f"{block}.attn.{norm}.weight"] = [head]

    embedding("timestep_embedder", 256)
    if config["guidance_embeds"]:
        embedding("guidance_embedder", 256)
    embedding("text_embedder", config["pooled_projection_dim"])
    tensors.linear("x_embedder", config["in_channels"], width)
    tensors.linear("context_embedder", config["joint_attention_dim"], width)
    for i in range(config["num_layers"]):
        block = f"transformer_blocks.{i}"
        projections(block, ("to_q", "to_k", "to_v", "to_out.0"), ("norm_q", "norm_k"))
        added = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
        projections(block, added, ("norm_added_q", "norm_added_k"))
        for norm, feed in (("norm1", "ff"), ("norm1_context", "ff_context")):
            tensors.linear(f"{block}.{norm}.linear", width, 6 * width)
            tensors.linear(f"{block}.{feed}.net.0.proj", width, 4 * width)
            tensors.linear(f"{block}.{feed}.net.2", 4 * width, width)
    for i in range(config["num_single_layers"]):
        block = f"single_transformer_blocks.{i}"
        projections(block, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        tensors.linear(f"{block}.norm.linear", width, 3 * width)
        tensors.linear(f"{block}.proj_mlp", width, 4 * width)
        tensors.linear(f"{block}.proj_out", 5 * width, width)
    tensors.linear("norm_out.linear", width, 2 * width)
    tensors.linear("proj_out", width, config["in_channels"])
    return tensors


NETWORKS = dict(
    UNet2DConditionModel=unet, AutoencoderKL=vae, CLIPTextModel=clip, CLIPTextModelWithProjection=clip,
    T5EncoderModel=t5, FluxTransformer2DModel=flux)

CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
VAE = dict(block_out_channels=[128, 256, 512, 512], layers_per_block=2, norm_num_groups=32)
CLIP_L = dict(
    vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    projection_dim=768)
CLIP_G = dict(
    vocab_size=49408, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
    projection_dim=1280)
T5_XXL = dict(d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, num_decoder_layers=24, vocab_size=32128)
FLUX = dict(
    attention_head_dim=128, num_attention_heads=24, num_layers=19, num_single_layers=38, joint_attention_dim=4096,
    pooled_projection_dim=768, axes_dims_rope=[16, 56, 56])
OF_FLUX = dict(transformer=FLUX, vae=dict(VAE, force_upcast=False), text_encoder=CLIP_L, text_encoder_2=T5_XXL)

# The small checkpoint that each is made after, the type of its files, and the sizes of its components.
MODELS = dict(
    sd15=("text", "F16", dict(
        unet=dict(
            sample_size=64, block_out_channels=[320, 640, 1280, 1280], layers_per_block=2, norm_num_groups=32,
            attention_head_dim=8, cross_attention_dim=768, down_block_types=[CROSS_DOWN] * 3 + [DOWN],
            up_block_types=[UP] + [CROSS_UP] * 3),
        vae=dict(VAE, scaling_factor=0.18215, force_upcast=False), text_encoder=CLIP_L)),
    sdxl=("xl", "F16", dict(
        unet=dict(
            sample_size=128, block_out_channels=[320, 640, 1280], layers_per_block=2, norm_num_groups=32,
            attention_head_dim=[5, 10, 20], cross_attention_dim=2048, transformer_layers_per_block=[1, 2, 10],
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816),
        vae=dict(VAE, scaling_factor=0.13025, force_upcast=True), text_encoder=CLIP_L, text_encoder_2=CLIP_G)),
    flux_dev=("flux/dev", "BF16", OF_FLUX),
    flux_schnell=("flux/schnell", "BF16", OF_FLUX),
)


def save(tensors: Tensors, dtype: str, path: Path) -> None:
    """The header, and then nothing: what a file has no blocks for reads as zeros."""
    header, end = {}, 0
    for name, shape in tensors.items():
        begin, end = end, end + BYTES[dtype] * math.prod(shape)
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=[begin, end])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def data_bytes(path: Path) -> int:
    with open(path, "rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
    return path.stat().st_size - 8 - header


def make(name: str, folder: Path) -> Path:
    """The checkpoint of that name in `folder`, made if it is not there."""
    small, dtype, sizes = MODELS[name]
    made, part = folder / name, folder / f"{name}.part"
    if made.is_dir():
        return made
    shutil.rmtree(part, ignore_errors=True)
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(SMALL / small, part, ignore=weights)
    index = json.loads((part / "model_index.json").read_text())
    for component, size in sizes.items():
        path = part / component / "config.json"
        config = {**json.loads(path.read_text()), **size}
        path.write_text(json.dumps(config, indent=2))
        stem = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
        save(NETWORKS[index[component][1]](config), dtype, part / component / f"{stem}.safetensors")
    os.rename(part, made)
    return made
