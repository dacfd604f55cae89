"""The latents of many scenes, and the UNet that learns to draw them from captions."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

import scenes
from bpe import token_ids
from text_encoder import WIDTH
from training import Average, Optimiser, Schedule, load_state, save_state
from vae import as_tensor

log = logging.getLogger(__name__)
EMPTY_CAPTIONS = 0.1  # share of the captions left out, for classifier-free guidance
ENCODED_AT_ONCE = 25
SNR_LIMIT = 5.0  # Hang et al., "Efficient diffusion training via min-SNR weighting", 2023


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=scenes.SIZE // 8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        attention_head_dim=4,  # the number of heads, as in Stable Diffusion 1.x
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
    )


def scene_of(seed: int, index: int) -> scenes.Scene:
    """Scene number `index` of the training set."""
    return scenes.random_scene(np.random.default_rng([seed, 5, index]))


@torch.no_grad()
def cache_latents(vae: AutoencoderKL, path: Path, seed: int, count: int, compiled: bool) -> None:
    """Saves `[count, 4, 16, 16]` latents (means of the encoder, divided to unit variance) and the factor."""
    vae = vae.to(memory_format=torch.channels_last)

    def encode(pictures: Tensor) -> Tensor:
        return vae.encode(pictures).latent_dist.mode()

    run = torch.compile(encode) if compiled else encode
    parts = []
    for start in range(0, count, ENCODED_AT_ONCE):
        scene_numbers = range(start, min(start + ENCODED_AT_ONCE, count))
        pictures = as_tensor(np.stack([scenes.render(scene_of(seed, index)) for index in scene_numbers]))
        parts.append(run(pictures.contiguous(memory_format=torch.channels_last)))
        if start % 1000 == 0:
            log.info("latents %d of %d", start, count)
    latents = torch.cat(parts)
    factor = round(1.0 / latents.std().item(), 4)
    torch.save({"latents": latents * factor, "factor": factor}, path)
    log.info("latents: %d, scaling factor %.4f", count, factor)


def train_unet(
    folder: Path,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    latents: Tensor,
    seed: int,
    schedule: Schedule,
    batch: int,
    resume: bool,
    compiled: bool,
) -> UNet2DConditionModel:
    """Epsilon prediction with min-SNR weights; saves the averaged weights."""
    torch.manual_seed(seed)
    unet = new_unet().to(memory_format=torch.channels_last)
    average, optimiser = Average(unet, 0.995), Optimiser(unet, schedule.rate, weight_decay=0.01)
    state = folder / "state.pt"
    done = load_state(state, unet, average, optimiser) if resume and state.exists() else 0
    folder.mkdir(parents=True, exist_ok=True)
    kept = new_scheduler().alphas_cumprod
    signal_to_noise = kept / (1.0 - kept)
    weights = signal_to_noise.clamp(max=SNR_LIMIT) / signal_to_noise
    drawn = [scene_of(seed, index) for index in range(len(latents))]

    def loss_of(noisy: Tensor, steps: Tensor, text: Tensor, noise: Tensor) -> Tensor:
        error = unet(noisy, steps, text, return_dict=False)[0] - noise
        return (error.square().mean(dim=(1, 2, 3)) * weights[steps]).mean()

    run = torch.compile(loss_of) if compiled else loss_of
    begun, saved, losses = time.monotonic(), time.monotonic(), []
    for step in range(done, schedule.total):
        rng = np.random.default_rng([seed, 6, step])
        chosen = rng.integers(len(latents), size=batch)
        captions = [scenes.random_caption(drawn[index], rng)[0] for index in chosen]
        captions = ["" if rng.random() < EMPTY_CAPTIONS else caption for caption in captions]
        with torch.no_grad():
            text = text_encoder(token_ids(tokenizer, captions)).last_hidden_state
        clean = latents[torch.from_numpy(chosen)]
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        # One timestep from each of `batch` equal parts of the range: the loss wanders less.
        steps = torch.from_numpy((rng.permutation(batch) + rng.random(batch)) * (1000 / batch)).long()
        alpha = kept[steps][:, None, None, None]
        noisy = alpha.sqrt() * clean + (1.0 - alpha).sqrt() * noise
        loss = run(noisy.contiguous(memory_format=torch.channels_last), steps, text, noise)
        loss.backward()
        optimiser.step(schedule.at(step))
        average.update(unet, step)
        losses.append(loss.item())
        if step % 25 == 0:
            log.info(
                "unet step %d loss %.4f rate %.2g, %.0f s",
                step, float(np.mean(losses[-100:])), schedule.at(step), time.monotonic() - begun,
            )
        if time.monotonic() - saved > 240 or step == schedule.total - 1:
            saved = time.monotonic()
            save_state(state, step + 1, unet, average, optimiser)
    average.model.save_pretrained(folder)
    return average.model
