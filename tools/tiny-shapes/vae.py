"""The VAE: 128x128 RGB pictures to `[4, 16, 16]` latents and back."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

import scenes
from training import Average, Optimiser, Schedule, load_state, save_state

log = logging.getLogger(__name__)
POOL = 4000
ANY_COLOUR = 0.15  # share of the pictures in colours outside the palette
KL_WEIGHT = 5e-4
LATE_KL_WEIGHT = 2e-3  # while the rate falls: tells the encoder to leave out what the decoder can do without
CROP = 64


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,  # few groups: with one channel a group the colour is normalised away
        sample_size=scenes.SIZE,
        force_upcast=False,
    )


def as_tensor(pictures: np.ndarray) -> Tensor:
    """`[batch, height, width, 3]` bytes to `[batch, 3, height, width]` from -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def picture_pool(seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 3])
    pool = np.empty((POOL, scenes.SIZE, scenes.SIZE, 3), np.uint8)
    for index in range(POOL):
        scene = scenes.random_scene(rng)
        pool[index] = (
            scenes.render_any_colour(scene, rng) if rng.random() < ANY_COLOUR else scenes.render(scene)
        )
    return pool


def batch_of(pool: np.ndarray, rng: np.random.Generator, count: int, crop: int) -> Tensor:
    chosen = pool[rng.integers(POOL, size=count)]
    if crop < scenes.SIZE:
        corners = rng.integers(0, scenes.SIZE - crop + 1, size=(count, 2))
        chosen = np.stack([p[y : y + crop, x : x + crop] for p, (y, x) in zip(chosen, corners)])
    return as_tensor(chosen)


def picture_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """L1, L2 and the L1 of the differences between neighbours, which sharpens edges."""
    error = drawn - wanted
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2.0 * error.square().mean() + gradient


@torch.no_grad()
def psnr(vae: nn.Module, pictures: Tensor) -> float:
    """Decibels of encode-decode, the mean over pictures."""
    drawn = torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in pictures.split(8)])
    errors = (drawn.clamp(-1, 1) - pictures).square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(4.0 / errors)).mean().item()


def check_pictures(count: int = 8) -> Tensor:
    """Scenes that no stage trains on."""
    rng = np.random.default_rng(987654)
    return as_tensor(np.stack([scenes.render(scenes.random_scene(rng)) for _ in range(count)]))


def train_vae(
    folder: Path,
    seed: int,
    schedule: Schedule,
    whole: int,
    batch: int,
    resume: bool,
    compiled: bool,
    muon: bool = True,
) -> AutoencoderKL:
    """Crops first, whole pictures (half as many) for the last `whole` steps; saves the averaged weights."""
    torch.manual_seed(seed)
    vae = new_vae().to(memory_format=torch.channels_last)
    average, optimiser = Average(vae, 0.995), Optimiser(vae, schedule.rate, muon=muon)
    state = folder / "state.pt"
    done = load_state(state, vae, average, optimiser) if resume and state.exists() else 0
    folder.mkdir(parents=True, exist_ok=True)
    pool, held_out = picture_pool(seed), check_pictures()

    def loss_of(pictures: Tensor, noise: Tensor, kl_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moments = vae.encode(pictures).latent_dist
        drawn = vae.decode(moments.mean + moments.std * noise).sample
        kl = 0.5 * (moments.mean.square() + moments.var - 1.0 - moments.logvar).mean()
        reconstruction = picture_loss(drawn, pictures)
        return reconstruction + kl_weight * kl, reconstruction, kl

    run = torch.compile(loss_of) if compiled else loss_of
    begun, saved = time.monotonic(), time.monotonic()
    for step in range(done, schedule.total):
        rng = np.random.default_rng([seed, 4, step])
        side = scenes.SIZE if step >= schedule.total - whole else CROP
        count = batch if side == CROP else batch // 2
        pictures = batch_of(pool, rng, count, side).contiguous(memory_format=torch.channels_last)
        noise = torch.from_numpy(rng.standard_normal((count, 4, side // 8, side // 8), dtype=np.float32))
        kl_weight = torch.tensor(LATE_KL_WEIGHT if step >= schedule.total - schedule.decay else KL_WEIGHT)
        loss, reconstruction, kl = run(pictures, noise, kl_weight)
        loss.backward()
        optimiser.step(schedule.at(step))
        average.update(vae, step)
        if step % 50 == 0:
            log.info(
                "vae step %d loss %.4f kl %.2f rate %.2g, %.0f s",
                step, reconstruction.item(), kl.item(), schedule.at(step), time.monotonic() - begun,
            )
        if time.monotonic() - saved > 240 or step == schedule.total - 1:
            saved = time.monotonic()
            save_state(state, step + 1, vae, average, optimiser)
            log.info("vae step %d saved, held-out %.2f dB", step, psnr(average.model, held_out))
    average.model.save_pretrained(folder)
    return average.model
