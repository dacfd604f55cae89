"""Two small checkpoints of random weights in the diffusers layout."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = [
    ("t", "h"), ("th", "e</w>"), ("r", "e"), ("re", "d</w>"), ("c", "i"), ("ci", "r"), ("cir", "c"),
    ("circ", "l"), ("circl", "e</w>"), ("b", "l"), ("bl", "u"), ("blu", "e</w>"), ("o", "n</w>"), ("a", "r"),
]


def byte_alphabet():
    """GPT-2's printable names of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in printable}
    more = (byte for byte in range(256) if byte not in names)
    names.update({byte: chr(256 + i) for i, byte in enumerate(more)})
    return [names[byte] for byte in range(256)]


def vocabulary():
    letters = byte_alphabet()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in MERGES), START, END]
    return {word: i for i, word in enumerate(words)}


def randomise(model, generator):
    """Norm weights about 1 and biases about 0 instead of exactly so: a mix-up of two of them must show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise)


def scale_output(layer, output, wanted):
    """Scales a last layer so that what leaves it has a standard deviation of `wanted`."""
    with torch.no_grad():
        layer.weight *= wanted / output.std()


def condition(unet, vae, text_width, generator):
    with torch.no_grad():
        for module in (unet, vae):
            randomise(module, generator)
        x = torch.randn(2, unet.config.in_channels, 8, 8, generator=generator)
        text = torch.randn(2, 77, text_width, generator=generator)
        scale_output(unet.conv_out, unet(x, torch.tensor([700, 30]), text).sample, 1.0)
        scale_output(vae.encoder.conv_out, vae.encode(torch.rand(1, 3, 64, 64, generator=generator)).latent_dist.mean, 1.0)
        scale_output(vae.decoder.conv_out, vae.decode(torch.randn(1, 4, 8, 8, generator=generator)).sample, 0.5)


def text_checkpoint(folder: Path):
    torch.manual_seed(11)
    generator = torch.Generator().manual_seed(12)
    tokenizer = CLIPTokenizer(vocab=vocabulary(), merges=MERGES, model_max_length=77)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocabulary()), hidden_size=32, intermediate_size=64, num_attention_heads=4,
        num_hidden_layers=3, max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=32,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))
    randomise(text, generator)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 24, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.8,
    )
    condition(unet, vae, 32, generator)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(folder)


def inpaint_checkpoint(folder: Path):
    torch.manual_seed(21)
    generator = torch.Generator().manual_seed(22)
    tokenizer = CLIPTokenizer(vocab=vocabulary(), merges=MERGES, model_max_length=77, pad_token="!")
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocabulary()), hidden_size=16, intermediate_size=32, num_attention_heads=2,
        num_hidden_layers=2, max_position_embeddings=77, hidden_act="gelu", projection_dim=16,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))
    randomise(text, generator)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=9, block_out_channels=(8, 16, 24), layers_per_block=[1, 2, 1],
        norm_num_groups=8, norm_eps=1e-6, transformer_layers_per_block=[1, 2, 1],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=[2, 4, 3], use_linear_projection=True, downsample_padding=0,
        flip_sin_to_cos=False, freq_shift=1,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 12), layers_per_block=2, norm_num_groups=2, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.6,
        use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False,
    )
    condition(unet, vae, 16, generator)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        timestep_spacing="trailing", rescale_betas_zero_snr=True,
    )
    pipe = StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    shutil.rmtree(folder / "unet")
    unet.to(torch.float16).save_pretrained(folder / "unet", variant="fp16")
    old_tokenizer_files(folder / "tokenizer")


def old_tokenizer_files(folder: Path):
    """`vocab.json` and `merges.txt`, as the checkpoints of 2022 have them, in place of `tokenizer.json`."""
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES))


def make(folder: Path):
    for name in ("text", "inpaint"):
        shutil.rmtree(folder / name, ignore_errors=True)
    text_checkpoint(folder / "text")
    inpaint_checkpoint(folder / "inpaint")
