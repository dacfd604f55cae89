"""Random checkpoints of real size, made on the GPU in seconds: `real.py sd15|sdxl|flux FOLDER DEVICE`.

Networks are built without memory, each weight is drawn on the device and goes into its file. Tokenizers and schedulers are
those of the small checkpoints of the same family: what a step costs does not depend on them."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import places
import weights

LIKE = dict(sd15="text", sdxl="xl", flux="flux/dev")
DTYPES = dict(sd15=torch.float16, sdxl=torch.float16, flux=torch.bfloat16)
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16"}
# Fresh weights predict almost nothing; a network that matters is one whose output has the size of noise.
LOUDER = {"unet.conv_out.weight": 40.0, "vae.decoder.conv_out.weight": 4.0, "transformer.proj_out.weight": 4.0}
DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"


def text_encoder(width: int, layers: int, heads: int, act: str, projection: int, projected: bool = False) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    # End of text 2: the pooled output is taken at the highest id, as in the published configurations.
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=77, hidden_act=act, projection_dim=projection,
        bos_token_id=0, eos_token_id=2, pad_token_id=1)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def autoencoder(**more: object) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **more)


def sd15() -> dict[str, nn.Module]:
    """The sizes of stable-diffusion-v1-5, whose autoencoder is decoded in half precision."""
    from diffusers import UNet2DConditionModel

    return dict(
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        vae=autoencoder(latent_channels=4, scaling_factor=0.18215, force_upcast=False),
        text_encoder=text_encoder(768, 12, 12, "quick_gelu", 768))


def sdxl() -> dict[str, nn.Module]:
    """The sizes of stable-diffusion-xl-base-1.0, whose autoencoder is decoded in f32."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN),
        up_block_types=(CROSS_UP, CROSS_UP, UP), attention_head_dim=[5, 10, 20], cross_attention_dim=2048,
        transformer_layers_per_block=[1, 2, 10], use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
    return dict(
        unet=unet, vae=autoencoder(latent_channels=4, scaling_factor=0.13025, force_upcast=True),
        text_encoder=text_encoder(768, 12, 12, "quick_gelu", 768),
        text_encoder_2=text_encoder(1280, 32, 20, "gelu", 1280, projected=True))


def flux() -> dict[str, nn.Module]:
    """The sizes of FLUX.1-dev, but for the second text encoder, which has 2 of its 24 layers: no step depends on it."""
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    transformer = FluxTransformer2DModel(
        num_layers=19, num_single_layers=38, attention_head_dim=128, num_attention_heads=24, joint_attention_dim=4096,
        pooled_projection_dim=768, guidance_embeds=True, axes_dims_rope=(16, 56, 56))
    vae = autoencoder(
        latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, force_upcast=True, use_quant_conv=False,
        use_post_quant_conv=False)
    text_2 = T5EncoderModel(T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=2, num_heads=64, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False))
    return dict(
        transformer=transformer, vae=vae, text_encoder=text_encoder(768, 12, 12, "quick_gelu", 768), text_encoder_2=text_2)


def values(name: str, shape: torch.Size, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Weights of a layer as a fresh one has them; norms are 1, biases 0."""
    if len(shape) == 1:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=dtype, device=device)
    bound = LOUDER.get(name, 1.0) * (shape.numel() / shape[0]) ** -0.5
    return torch.empty(shape, dtype=dtype, device=device).uniform_(-bound, bound)


def tensors(component: str, network: nn.Module) -> Iterator[tuple[str, str, torch.Size]]:
    """Name in the file, name in the checkpoint, shape. Weights that are shared come once."""
    for name, parameter in network.named_parameters():
        yield name, f"{component}.{name}", parameter.shape


def write(component: str, network: nn.Module, folder: Path, dtype: torch.dtype, device: str) -> None:
    folder.mkdir(parents=True)
    save = getattr(network, "save_config", None) or network.config.save_pretrained
    save(folder)
    file = "model.safetensors" if component.startswith("text_encoder") else "diffusion_pytorch_model.safetensors"
    entries = {name: (NAMES[dtype], list(shape), 2 * shape.numel()) for name, _, shape in tensors(component, network)}
    with (folder / file).open("wb") as out:
        out.write(weights.header_of(entries))
        for _, full, shape in tensors(component, network):
            drawn = values(full, shape, dtype, device)
            out.write(drawn.flatten().view(torch.uint8).cpu().numpy().data)


@torch.no_grad()
def make(kind: str, folder: Path, device: str) -> None:
    """Makes FOLDER; one that was interrupted is made anew, and one that is there is left as it is."""
    if folder.exists():
        return
    torch.manual_seed(7)
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    like = places.DATA / LIKE[kind]
    with torch.device("meta"):
        networks = dict(sd15=sd15, sdxl=sdxl, flux=flux)[kind]()
    for component, network in networks.items():
        write(component, network, unfinished / component, DTYPES[kind], device)
    for name in json.loads((like / "model_index.json").read_text()):
        if name not in networks and (like / name).is_dir():
            shutil.copytree(like / name, unfinished / name)
    shutil.copyfile(like / "model_index.json", unfinished / "model_index.json")
    unfinished.rename(folder)


if __name__ == "__main__":
    begun = time.monotonic()
    make(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    print(f"{sys.argv[1]}: {time.monotonic() - begun:.1f} s")
