"""What the training stages share: learning-rate schedule, optimiser, moving average, saved state."""

from __future__ import annotations

import copy
import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then constant, then down to nothing over the last `decay` steps.

    The constant part does not depend on the total, so a run can be lengthened or cut
    short before its decay begins without changing what has been learned.
    """

    rate: float
    total: int
    decay: int
    warmup: int = 100

    def at(self, step: int) -> float:
        up = min(1.0, (step + 1) / self.warmup)
        left = min(1.0, (self.total - step) / max(1, self.decay))
        return self.rate * up * max(0.0, left)


def orthogonalised(update: Tensor, rounds: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrix, over a batch of matrices.

    The quintic's coefficients are from Jordan et al., "Muon", 2024.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = update.shape[-2] > update.shape[-1]
    x = update.mT if tall else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates for weight matrices and convolution kernels.

    Updates are scaled to the root mean square that Adam's usually have
    (Liu et al., "Muon is scalable for LLM training", 2025), so both take the same rate.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                gradient, buffer = parameter.grad, state["momentum"]
                buffer.lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(buffer, group["momentum"]).reshape(parameter.shape[0], -1)
                alike[tuple(update.shape)].append((parameter, update))
            for (rows, columns), members in alike.items():
                updates = orthogonalised(torch.stack([update for _, update in members]))
                scale = 0.2 * math.sqrt(max(rows, columns))
                for (parameter, _), update in zip(members, updates):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(group["lr"] * scale * update.reshape(parameter.shape))


class Optimiser:
    """Muon for the inner matrices, AdamW for the rest, one rate for both."""

    def __init__(self, model: nn.Module, rate: float, weight_decay: float = 0.0, muon: bool = True):
        inner, rest = [], []
        for name, parameter in model.named_parameters():
            outer = "conv_in" in name or "conv_out" in name or "embed" in name
            (inner if muon and parameter.ndim >= 2 and not outer else rest).append(parameter)
        self.parts: list[torch.optim.Optimizer] = []
        if inner:
            self.parts.append(Muon(inner, lr=rate, weight_decay=weight_decay))
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay))
        self.parameters = inner + rest

    def step(self, rate: float) -> None:
        """Clips the gradients, takes a step at `rate` and clears the gradients."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class Average:
    """An exponential moving average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - keep)


def save_state(path: Path, step: int, model: nn.Module, average: Average, optimiser: Optimiser) -> None:
    """Replaces the state file in one move, so that a run can stop at any time."""
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "step": step,
            "model": model.state_dict(),
            "average": average.model.state_dict(),
            "optimiser": optimiser.state_dict(),
        },
        partial,
    )
    os.replace(partial, path)


def load_state(path: Path, model: nn.Module, average: Average, optimiser: Optimiser) -> int:
    """Fills in what was saved; gives the number of steps done."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    average.model.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]
