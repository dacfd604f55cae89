"""Small random checkpoints of the other families, and whole runs of their pipelines: `families.py OUTPUT_FOLDER`."""

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers import LatentConsistencyModelImg2ImgPipeline, LatentConsistencyModelPipeline
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import checkpoints
import runs

BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"


def tokenizer(pad=None):
    more = {"pad_token": pad} if pad else {}
    return CLIPTokenizer(
        vocab=checkpoints.vocabulary(), merges=checkpoints.MERGES, model_max_length=77, **more)


def text_encoder(tokens, cls=CLIPTextModel, width=16, layers=3, act="quick_gelu", projection=16, eos=None):
    encoder = cls(CLIPTextConfig(
        vocab_size=len(checkpoints.vocabulary()), hidden_size=width, intermediate_size=2 * width,
        num_attention_heads=2, num_hidden_layers=layers, max_position_embeddings=77, hidden_act=act,
        projection_dim=projection, bos_token_id=tokens.bos_token_id, pad_token_id=tokens.pad_token_id,
        eos_token_id=tokens.eos_token_id if eos is None else eos))
    return encoder


def autoencoder(**more):
    return AutoencoderKL(
        block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.8,
        **more)


def tiny_autoencoder(channels=8):
    return AutoencoderTiny(
        encoder_block_out_channels=(channels,) * 4, decoder_block_out_channels=(channels,) * 4,
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1))


@torch.no_grad()
def condition(unet, vae, encoders, generator, sizes=0):
    for module in (unet, vae, *encoders):
        checkpoints.randomise(module, generator)
    width = unet.config.cross_attention_dim
    x = torch.randn(2, unet.config.in_channels, 8, 8, generator=generator)
    text = torch.randn(2, 77, width, generator=generator)
    more = {}
    if sizes:
        pooled = torch.randn(2, encoders[-1].config.projection_dim, generator=generator)
        more["added_cond_kwargs"] = dict(text_embeds=pooled, time_ids=torch.full((2, sizes), 64.0))
    if unet.config.time_cond_proj_dim:
        more["timestep_cond"] = torch.randn(2, unet.config.time_cond_proj_dim, generator=generator)
    checkpoints.scale_output(unet.conv_out, unet(x, torch.tensor([700, 30]), text, **more).sample, 1.0)
    if isinstance(vae, AutoencoderKL):
        encoded = vae.encode(torch.rand(1, 3, 64, 64, generator=generator)).latent_dist.mean
        checkpoints.scale_output(vae.encoder.conv_out, encoded, 1.0)
        decoded = vae.decode(torch.randn(1, 4, 8, 8, generator=generator)).sample
        checkpoints.scale_output(vae.decoder.conv_out, decoded, 0.5)


def unet(width, **more):
    settings = dict(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=(CROSS_DOWN, DOWN), up_block_types=(UP, CROSS_UP), cross_attention_dim=width,
        attention_head_dim=2)
    return UNet2DConditionModel(**{**settings, **more})


def sd2(generator):
    """SD 2.1: v prediction, OpenCLIP's encoder without its last layer, linear projections, heads per block."""
    tokens = tokenizer("!")
    text = text_encoder(tokens, act="gelu", projection=24)
    net = unet(16, block_out_channels=(8, 16), attention_head_dim=[2, 4], use_linear_projection=True)
    vae = autoencoder()
    condition(net, vae, [text], generator)
    scheduler = DDIMScheduler(
        **BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokens, unet=net, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)


def turbo(generator):
    """SD-Turbo: trailing timesteps, no guidance; here with a tiny autoencoder in place of the large one."""
    tokens = tokenizer("!")
    text = text_encoder(tokens, act="gelu")
    net, vae = unet(16), tiny_autoencoder()
    condition(net, vae, [text], generator)
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokens, unet=net, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)


def lcm(generator):
    """A latent consistency model: the guidance scale is embedded."""
    tokens = tokenizer()
    text = text_encoder(tokens)
    net, vae = unet(16, time_cond_proj_dim=32), autoencoder()
    condition(net, vae, [text], generator)
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokens, unet=net, scheduler=LCMScheduler(**BETAS), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)


def xl_parts(generator, sizes=6, both=True, **more):
    tokens, tokens_2 = tokenizer(), tokenizer("!")
    # The published configurations say 2, which is not the vocabulary's end: transformers then takes the highest id.
    first = text_encoder(tokens, eos=2) if both else None
    second = text_encoder(tokens_2, CLIPTextModelWithProjection, width=24, act="gelu", projection=12, eos=2)
    encoders = [encoder for encoder in (first, second) if encoder]
    width = sum(encoder.config.hidden_size for encoder in encoders)
    settings = dict(
        block_out_channels=(8, 12, 16), down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN),
        up_block_types=(CROSS_UP, CROSS_UP, UP), attention_head_dim=[2, 3, 4], transformer_layers_per_block=[1, 2, 3],
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + sizes * 8)
    net, vae = unet(width, **{**settings, **more}), autoencoder(force_upcast=True)
    condition(net, vae, encoders, generator, sizes)
    return dict(
        vae=vae, text_encoder=first, text_encoder_2=second, tokenizer=tokens if both else None, tokenizer_2=tokens_2,
        unet=net, scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1))


def xl(generator):
    return StableDiffusionXLPipeline(**xl_parts(generator))


def xl_turbo(generator):
    parts = xl_parts(generator)
    parts["scheduler"] = EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    return StableDiffusionXLPipeline(**parts)


def xl_inpaint(generator):
    return StableDiffusionXLInpaintPipeline(**xl_parts(generator, in_channels=9), force_zeros_for_empty_prompt=False)


def refiner(generator):
    parts = xl_parts(
        generator, sizes=5, both=False, block_out_channels=(8, 12, 16, 16),
        down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN, DOWN), up_block_types=(UP, CROSS_UP, CROSS_UP, UP),
        attention_head_dim=[2, 3, 4, 4], transformer_layers_per_block=2)
    return StableDiffusionXLImg2ImgPipeline(
        **parts, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False)


MAKERS = dict(
    sd2=sd2, turbo=turbo, lcm=lcm, xl=xl, xl_turbo=xl_turbo, xl_inpaint=xl_inpaint, refiner=refiner)
SD = dict(text=StableDiffusionPipeline, image=StableDiffusionImg2ImgPipeline, inpaint=StableDiffusionInpaintPipeline)
XL = dict(
    text=StableDiffusionXLPipeline, image=StableDiffusionXLImg2ImgPipeline, inpaint=StableDiffusionXLInpaintPipeline)
# What AutoPipelineForText2Image and AutoPipelineForImage2Image make of a checkpoint whose class is an LCM one. There is
# none for inpainting, which AutoPipelineForInpainting refuses.
CONSISTENCY = dict(text=LatentConsistencyModelPipeline, image=LatentConsistencyModelImg2ImgPipeline)
run = runs.run


def consistency(name, source, steps, strength=1.0, guidance_scale=8.5, **more):
    """By LCM's own pipelines, which read `lcm` as a checkpoint of their class."""
    return run(f"consistency_{name}", "lcm", source, None, steps=steps, strength=strength, negative_prompt=None,
               guidance_scale=guidance_scale, **more) | dict(pipeline="LatentConsistencyModelPipeline")


RUNS = [
    run("sd2_text", "sd2", "text", None),
    run("sd2_skip", "sd2", "text", "euler", clip_skip=1, guidance_scale=3.0),
    run("sd2_image", "sd2", "image", None, strength=0.6, width=104, height=72),
    run("turbo_text_1", "turbo", "text", None, steps=1, guidance_scale=0.0),
    run("turbo_text_4", "turbo", "text", None, steps=4, guidance_scale=0.0),
    run("turbo_image", "turbo", "image", None, steps=4, strength=0.5, guidance_scale=0.0),
    run("turbo_blend", "turbo", "inpaint", None, steps=4, strength=1.0, guidance_scale=2.0),
    run("lcm_text", "lcm", "text", None, steps=4, guidance_scale=8.5),
    run("lcm_image", "lcm", "image", None, steps=4, strength=0.8, guidance_scale=1.0),
    run("lcm_blend", "lcm", "inpaint", None, steps=4, strength=0.5, guidance_scale=8.5, negative_prompt=None),
    run("lcm_blend_full", "lcm", "inpaint", None, steps=4, strength=1.0, guidance_scale=1.0, negative_prompt=None),
    consistency("text", "text", 4),
    consistency("image_half", "image", 4, 0.5),
    consistency("image_most", "image", 4, 0.8, guidance_scale=1.0, width=104, height=72),
    consistency("image_full", "image", 4, 1.0),
    consistency("image_odd", "image", 5, 0.55, seed=7),
    consistency("image_least", "image", 1, 0.03, seed=8),
    consistency("image_every", "image", 8, 0.17, seed=9),
    run("xl_text", "xl", "text", None),
    run("xl_no_negative", "xl", "text", "ddim", negative_prompt=None, width=104, height=72),
    run("xl_skip", "xl", "text", "euler_a", clip_skip=1, negative_prompt=""),
    run("xl_unguided", "xl", "text", None, guidance_scale=1.0),
    run("xl_image", "xl", "image", None, strength=0.6, width=104, height=72),
    run("xl_blend", "xl", "inpaint", None, strength=0.7),
    run("xl_blend_full", "xl", "inpaint", "ddim", strength=1.0, width=104, height=72),
    run("xl_turbo_text", "xl_turbo", "text", None, steps=2, guidance_scale=0.0),
    run("xl_inpaint_channels", "xl_inpaint", "inpaint", None, strength=1.0, negative_prompt=None),
    run("xl_inpaint_part", "xl_inpaint", "inpaint", "euler_a", strength=0.6),
    run("refiner_image", "refiner", "image", None, strength=0.5),
    run("refiner_unguided", "refiner", "image", None, strength=0.5, guidance_scale=1.0),
    run("refiner_blend", "refiner", "inpaint", None, strength=0.7, negative_prompt=None),
]


def pipeline_class(case):
    if "pipeline" in case:
        return CONSISTENCY[case["source"]]
    return (SD if case["checkpoint"] in ("sd2", "turbo", "lcm") else XL)[case["source"]]


@torch.no_grad()
def taesd(pipe, folder: Path, out):
    """A tiny autoencoder beside the large one, as previews use it, and what it makes of latents and of a picture."""
    generator = torch.Generator().manual_seed(77)
    vae = tiny_autoencoder()
    checkpoints.randomise(vae, generator)
    vae.to(torch.float16).save_pretrained(folder)
    vae.float()
    out["taesd.latents"] = torch.randn(1, 4, 9, 13, generator=generator)
    out["taesd.decoded"] = vae.decode(out["taesd.latents"]).sample
    out["taesd.picture"] = torch.rand(1, 3, 72, 104, generator=generator) * 2 - 1
    out["taesd.encoded"] = vae.encode(out["taesd.picture"]).latents


def make(folder: Path):
    from safetensors.torch import save_file

    pipes, out = {}, {}
    for i, (name, maker) in enumerate(MAKERS.items()):
        torch.manual_seed(100 + i)
        pipe = maker(torch.Generator().manual_seed(200 + i))
        shutil.rmtree(folder / name, ignore_errors=True)
        pipe.to(torch.float16).save_pretrained(folder / name)
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.float()
        # Read back: a value that was left at its default counts as given once it is in a file.
        pipe.register_modules(scheduler=type(pipe.scheduler).from_pretrained(folder / name / "scheduler"))
        pipes[name] = pipe
    for pipe in pipes.values():
        # clip_skip in diffusers 0.42.1 asks for an attribute that transformers 5 no longer has.
        if pipe.text_encoder is not None:
            pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder
    taesd(pipes["turbo"], folder / "turbo/taesd", out)
    for case in RUNS:
        runs.one(case, pipes[case["checkpoint"]], pipeline_class(case), out)
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "families.safetensors")
    (folder / "families.json").write_text(json.dumps(RUNS, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
