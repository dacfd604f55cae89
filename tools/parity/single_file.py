"""Small checkpoints in the original layout of single files, and what diffusers has of them.

For each family: the file, and `single_file.<family>.json` with the name, shape and digest of every tensor that
diffusers' own `from_single_file` reads from it. For Stable Diffusion 1 also a whole run.
Run alone: `python tools/parity/single_file.py tests/data/parity`."""

import gzip
import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from checkpoints import byte_alphabet, randomise, scale_output

ASSETS = Path(__file__).parents[2] / "assets/clip"
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
PROMPT, NEGATIVE = "A photo of a red cat, \u732b!", "blurry"


def tokenizer(pad_token="<|endoftext|>"):
    lines = gzip.open(ASSETS / "bpe_simple_vocab_16e6.txt.gz").read().decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = sorted(byte_alphabet(), key=ord)  # CLIP puts the printable bytes first
    words = [*letters, *(x + "</w>" for x in letters), *("".join(m) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=merges, model_max_length=77, pad_token=pad_token)


def text_encoder(cls, width, vocabulary, activation, projection):
    return cls(CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_attention_heads=1,
        num_hidden_layers=2, max_position_embeddings=77, hidden_act=activation, projection_dim=projection,
        bos_token_id=0, eos_token_id=2, pad_token_id=1))


def unet(**config):
    return UNet2DConditionModel(sample_size=8, layers_per_block=1, norm_num_groups=8, **config)


def vae(**config):
    return AutoencoderKL(
        block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **config)


CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def blocks(*kinds):
    return dict(down_block_types=[k[0] for k in kinds], up_block_types=[k[1] for k in reversed(kinds)])


def sd1():
    return StableDiffusionPipeline(
        unet=unet(block_out_channels=(8, 16), cross_attention_dim=4, attention_head_dim=8, **blocks(CROSS, PLAIN)),
        vae=vae(scaling_factor=0.18215), tokenizer=tokenizer(),
        text_encoder=text_encoder(CLIPTextModel, 4, 49408, "quick_gelu", 4), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False, scheduler=DDIMScheduler(
            clip_sample=False, set_alpha_to_one=False, **BETAS))


def sd1_inpainting():
    pipe = sd1()
    pipe.unet = unet(
        in_channels=9, block_out_channels=(8, 16), cross_attention_dim=8, attention_head_dim=8, **blocks(CROSS, PLAIN))
    pipe.text_encoder = text_encoder(CLIPTextModel, 8, 90, "quick_gelu", 8)
    return pipe


def sd2():
    pipe = sd1()
    pipe.unet = unet(
        block_out_channels=(8, 16), cross_attention_dim=8, attention_head_dim=1, use_linear_projection=True,
        upcast_attention=True, **blocks(CROSS, PLAIN))
    pipe.text_encoder = text_encoder(CLIPTextModel, 8, 100, "gelu", 8)
    return pipe


def added(pooled, numbers):
    return dict(
        addition_embed_type="text_time", addition_time_embed_dim=8, use_linear_projection=True,
        projection_class_embeddings_input_dim=pooled + 8 * numbers, attention_head_dim=1)


def xl_base():
    return StableDiffusionXLPipeline(
        unet=unet(block_out_channels=(8, 8, 8), cross_attention_dim=20, transformer_layers_per_block=[1, 1, 2],
                  **added(12, 6), **blocks(PLAIN, CROSS, CROSS)),
        vae=vae(scaling_factor=0.13025), tokenizer=tokenizer(), tokenizer_2=tokenizer("!"),
        text_encoder=text_encoder(CLIPTextModel, 8, 100, "quick_gelu", 8),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, 12, 100, "gelu", 12),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **BETAS))


def xl_refiner():
    return StableDiffusionXLImg2ImgPipeline(
        unet=unet(block_out_channels=(8, 8, 8), cross_attention_dim=12, transformer_layers_per_block=2,
                  **added(12, 5), **blocks(PLAIN, CROSS, PLAIN)),
        vae=vae(scaling_factor=0.13025), tokenizer=None, tokenizer_2=tokenizer("!"), text_encoder=None,
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, 12, 100, "gelu", 12),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **BETAS), requires_aesthetics_score=True)


def rename(name, pairs):
    for pattern, replacement in pairs:
        name = re.sub(pattern, replacement, name)
    return name


def original_unet(unet):
    """One layer a block: its layer and its sampler make two input blocks."""
    state, out = unet.state_dict(), {}
    for name, value in state.items():
        name = rename(name, [
            (r"^conv_in", "input_blocks.0.0"), (r"^conv_norm_out", "out.0"), (r"^conv_out", "out.2"),
            (r"^time_embedding.linear_1", "time_embed.0"), (r"^time_embedding.linear_2", "time_embed.2"),
            (r"^add_embedding.linear_1", "label_emb.0.0"), (r"^add_embedding.linear_2", "label_emb.0.2"),
            (r"^mid_block.resnets.0", "middle_block.0"), (r"^mid_block.attentions.0", "middle_block.1"),
            (r"^mid_block.resnets.1", "middle_block.2"),
        ])
        if match := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|\w+samplers)\.(\d)\.(.*)", name):
            side, block, kind, i, rest = match.groups()
            block, i = int(block), int(i)
            if side == "down":
                place = f"input_blocks.{2 * block + 1 + i}" if kind != "downsamplers" else f"input_blocks.{2 * block + 2}"
            else:
                place = f"output_blocks.{2 * block + (i if kind != 'upsamplers' else 1)}"
            attended = any(k.startswith(f"up_blocks.{block}.attentions") for k in state)
            name = {
                "resnets": f"{place}.0.{rest}", "attentions": f"{place}.1.{rest}",
                "downsamplers": f"{place}.0.{rest.replace('conv', 'op')}",
                "upsamplers": f"{place}.{2 if attended else 1}.{rest}",
            }[kind]
        if not re.search(r"transformer_blocks", name):
            name = rename(name, [
                (r"\.norm1\.", ".in_layers.0."), (r"\.conv1\.", ".in_layers.2."), (r"\.norm2\.", ".out_layers.0."),
                (r"\.conv2\.", ".out_layers.3."), (r"\.time_emb_proj\.", ".emb_layers.1."),
                (r"\.conv_shortcut\.", ".skip_connection."),
            ])
        out["model.diffusion_model." + name] = value
    return out


def original_vae(vae):
    last, out = len(vae.config.block_out_channels) - 1, {}
    for name, value in vae.state_dict().items():
        if ".attentions.0.to_" in name and value.dim() == 2:
            value = value[:, :, None, None]
        name = rename(name, [
            (r"up_blocks\.(\d)", lambda m: f"up.{last - int(m[1])}"), (r"down_blocks", "down"),
            (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
            (r"mid_block\.attentions\.0", "mid.attn_1"), (r"\.resnets\.", ".block."), (r"\.(up|down)samplers\.0", r".\1sample"),
            (r"conv_norm_out", "norm_out"), (r"conv_shortcut", "nin_shortcut"), (r"group_norm", "norm"),
            (r"to_out\.0", "proj_out"), (r"attn_1\.to_", "attn_1."),
        ])
        out["first_stage_model." + name] = value
    return out


def original_clip(model, prefix):
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": x for name, x in model.state_dict().items()}


def original_open_clip(model, prefix):
    state, out = {name.removeprefix("text_model."): x for name, x in model.state_dict().items()}, {}
    for name, value in state.items():
        if match := re.match(r"(.*self_attn\.)([qkv])_proj\.(weight|bias)", name):
            if match[2] != "q":
                continue
            value = torch.cat([state[f"{match[1]}{part}_proj.{match[3]}"] for part in "qkv"])
            name = f"{match[1]}in_proj_{match[3]}"
        name = rename(name, [
            (r"^embeddings.token_embedding", "token_embedding"), (r"^final_layer_norm", "ln_final"),
            (r"^embeddings.position_embedding.weight", "positional_embedding"),
            (r"^encoder.layers", "transformer.resblocks"), (r"layer_norm1", "ln_1"), (r"layer_norm2", "ln_2"),
            (r"self_attn", "attn"), (r"mlp.fc1", "mlp.c_fc"), (r"mlp.fc2", "mlp.c_proj"),
        ])
        out[prefix + name.removesuffix(".weight") if name == "text_projection.weight" else prefix + name] = (
            value.T if name == "text_projection.weight" else value)
    return out


FAMILIES = {
    "sd1": (sd1, {"text_encoder": (original_clip, "cond_stage_model.transformer.")}),
    "sd1_inpainting": (sd1_inpainting, {"text_encoder": (original_clip, "cond_stage_model.transformer.")}),
    "sd2": (sd2, {"text_encoder": (original_open_clip, "cond_stage_model.model.")}),
    "xl_base": (xl_base, {
        "text_encoder": (original_clip, "conditioner.embedders.0.transformer."),
        "text_encoder_2": (original_open_clip, "conditioner.embedders.1.model.")}),
    "xl_refiner": (xl_refiner, {"text_encoder_2": (original_open_clip, "conditioner.embedders.0.model.")}),
}


def read_back(pipe, path):
    """The file as diffusers reads it, with the configurations of the pipeline it was made from.

    diffusers tells the text encoders of XL by their tenth layer, which these have not: that is its choice of default
    configuration only, and the configuration is given."""
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(folder)
        for weights in Path(folder).rglob("*.safetensors"):
            weights.unlink()
        again = type(pipe).from_single_file(str(path), config=folder, torch_dtype=torch.float16)
    if again.text_encoder is not None:
        again.text_encoder.__dict__["text_model"] = again.text_encoder
    return again


def digest(x):
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()[:16]


def make(folder: Path):
    for seed, (name, (build, encoders)) in enumerate(FAMILIES.items()):
        torch.manual_seed(100 + seed)
        generator = torch.Generator().manual_seed(200 + seed)
        pipe = build()
        modules = {key: x for key, x in pipe.components.items() if isinstance(x, torch.nn.Module)}
        for module in modules.values():
            randomise(module, generator)
            module.eval()
        if name == "sd1":
            with torch.no_grad():
                text = torch.randn(1, 77, 4, generator=generator)
                scale_output(pipe.unet.conv_out, pipe.unet(
                    torch.randn(1, 4, 8, 8, generator=generator), 500, text).sample, 1.0)
                scale_output(pipe.vae.decoder.conv_out, pipe.vae.decode(
                    5 * torch.randn(1, 4, 8, 8, generator=generator)).sample, 0.5)
        for module in modules.values():
            module.half()
        tensors = original_unet(pipe.unet) | original_vae(pipe.vae)
        for component, (convert, prefix) in encoders.items():
            tensors |= convert(modules[component], prefix)
        path = folder / f"single_file.{name}.safetensors"
        save_file({key: x.contiguous() for key, x in tensors.items()}, path)
        again = read_back(pipe, path)
        manifest = {}
        for component, module in modules.items():
            ours, theirs = module.state_dict(), getattr(again, component).state_dict()
            assert ours.keys() == theirs.keys(), component
            for key, x in ours.items():
                assert torch.equal(x, theirs[key]), (component, key)
            manifest[component] = {key: [list(x.shape), digest(x)] for key, x in theirs.items()}
        (folder / f"single_file.{name}.json").write_text(json.dumps(manifest, separators=(",", ":")))
        print(f"  {name}: {path.stat().st_size} bytes, {sum(map(len, manifest.values()))} tensors")
        if name == "sd1":
            run(again, folder)


def run(pipe, folder):
    pipe.to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    latents = []

    def keep(_pipe, _i, _t, values):
        latents.append(values["latents"].clone())
        return values

    picture = pipe(
        prompt=PROMPT, negative_prompt=NEGATIVE, num_inference_steps=4, guidance_scale=5.0, width=32, height=16,
        generator=torch.Generator().manual_seed(3), output_type="np", callback_on_step_end=keep).images[0]
    ids = {"ids": [pipe.tokenizer(text, padding="max_length", max_length=77).input_ids for text in (PROMPT, NEGATIVE)]}
    picture = (picture * 255).round().astype(np.uint8)
    print(f"  run: std {picture.std():.0f}, at the ends {np.mean((picture == 0) | (picture == 255)):.0%}")
    save_file({
        "ids": torch.tensor(ids["ids"], dtype=torch.uint32), "latents": torch.cat(latents),
        "image": torch.from_numpy(picture.copy())}, folder / "single_file.run.safetensors")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
