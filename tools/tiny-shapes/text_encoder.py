"""The text encoder: a small CLIPTextModel that learns to tell what a caption says.

It is trained alone, to have the size, colour, shape and background read off its last
hidden states by linear maps, and is frozen afterwards: the UNet's cross attention then
finds each attribute at once.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import scenes
from bpe import MAX_LENGTH, token_ids
from training import Schedule

log = logging.getLogger(__name__)
WIDTH = 96
RATE = 1.5e-3
BATCH = 64
IGNORED = -100


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=256,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def captions_and_labels(rng: np.random.Generator, count: int) -> tuple[list[str], Tensor]:
    """Captions, and `[count, 4]` labels: size, colour, shape, background; -100 where unsaid."""
    captions, labels = [], []
    for _ in range(count):
        scene = scenes.random_scene(rng)
        caption, says_size, says_background = scenes.random_caption(scene, rng)
        captions.append(caption)
        labels.append(
            (
                scenes.SIZES.index(scene.size) if says_size else IGNORED,
                scenes.COLOURS.index(scene.colour),
                scenes.SHAPES.index(scene.shape),
                scenes.COLOURS.index(scene.background) if says_background else IGNORED,
            )
        )
    return captions, torch.tensor(labels)


def train_text_encoder(tokenizer: CLIPTokenizer, folder: Path, seed: int, steps: int) -> CLIPTextModel:
    torch.manual_seed(seed)
    model = new_text_encoder(tokenizer)
    heads = nn.ModuleList(
        nn.Linear(WIDTH, len(values))
        for values in (scenes.SIZES, scenes.COLOURS, scenes.SHAPES, scenes.COLOURS)
    )
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = Schedule(rate=RATE, total=steps, decay=steps // 2, warmup=50)
    for step in range(steps):
        rng = np.random.default_rng([seed, 2, step])
        captions, labels = captions_and_labels(rng, BATCH)
        ids = token_ids(tokenizer, captions)
        hidden = model(ids).last_hidden_state
        ends = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        # The end token, a random padding token and the last one: padding is most of what the UNet attends to.
        between = ends + torch.tensor(rng.integers(0, MAX_LENGTH - ends.numpy()))
        rows = torch.arange(BATCH)
        losses, right = [], []
        for place in (ends, between, torch.full_like(ends, MAX_LENGTH - 1)):
            for index, head in enumerate(heads):
                logits, target = head(hidden[rows, place]), labels[:, index]
                losses.append(nn.functional.cross_entropy(logits, target, ignore_index=IGNORED))
                right.append((logits.argmax(dim=1) == target)[target != IGNORED].float().mean())
        loss = torch.stack(losses).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = schedule.at(step)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            log.info("text step %d loss %.4f right %.3f", step, loss.item(), torch.stack(right).mean().item())
    model.eval().requires_grad_(False)
    model.save_pretrained(folder)
    return model
