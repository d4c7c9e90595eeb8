"""An optimiser of a head's parameters, its learning rate, and its state by parameter name.

Knows nothing of batches, losses or files.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from muse.head.bert_adam import BertAdam

OptimizerName = Literal["adamw", "bertadam"]
DecayRule = Literal["matrices", "published"]

ADAM_BETAS = (0.9, 0.98)  # as CLIP's, and as the published code
ADAM_EPS = 1e-6
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # BertAdam counts no steps


def scheduled_rate(step: int, *, num_steps: int, peak: float, warmup: float) -> float:
    """The learning rate of a step, counted from 0.

    Linear warm-up, then half a cosine over all steps. As in the published code the cosine runs
    from step 0, so the rate falls a little (to 0.976 of its peak for 10 %) where warm-up ends.
    """
    progress = step / num_steps
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def has_weight_decay(name: str, parameter: Tensor, *, rule: DecayRule = "matrices") -> bool:
    """Whether a parameter is decayed.

    ``matrices``: matrices and convolutions, but not log A; Mamba's authors mark A and D as not to
    be. ``published``: all whose name has no "bias" in it, as in the published code, where the
    norms of the blocks, A, D and the convolutions are decayed too. The pyramid follows that rule
    here; there it isn't trained. The temperature does not: there it is CLIP's, whose rate of 1e-7
    leaves it where it is, and at a head's rate decay alone would take 100 to 12 in 7,000 steps.
    """
    if rule == "published":
        return "bias" not in name and name != "logit_scale"
    return parameter.ndim >= 2 and not name.endswith(("A_log", "A_b_log"))


class HeadOptimizer:
    """AdamW or BertAdam under `scheduled_rate`, with gradients clipped to a global norm."""

    def __init__(
        self,
        module: nn.Module,
        *,
        peak_lr: float,
        warmup: float,
        num_steps: int,
        weight_decay: float,
        max_grad_norm: float,
        optimizer: OptimizerName = "adamw",
        decay: DecayRule = "matrices",
        peak_rates: Mapping[str, float] | None = None,
    ) -> None:
        self.peak_lr = peak_lr
        self.warmup = warmup
        self.num_steps = num_steps
        self.lr = 0.0
        """Of the last update, where ``peak_rates`` name no other."""
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.max_grad_norm = max_grad_norm
        # The head's two first: without other rates there are no more.
        groups: dict[tuple[float, float], list[nn.Parameter]] = {
            (1.0, weight_decay): [],
            (1.0, 0.0): [],
        }
        for name, parameter in self.parameters.items():
            part = (peak_rates or {}).get(name, peak_lr) / peak_lr
            decayed = weight_decay if has_weight_decay(name, parameter, rule=decay) else 0.0
            groups.setdefault((part, decayed), []).append(parameter)
        kind = BertAdam if optimizer == "bertadam" else torch.optim.AdamW
        # One kernel for all weights of a group, where there is one.
        self._is_fused = optimizer == "adamw" and next(module.parameters()).is_cuda
        self.adam = kind(
            [{"params": group, "weight_decay": of} for (_, of), group in groups.items()],
            betas=ADAM_BETAS,
            eps=ADAM_EPS,
            **({"fused": True} if self._is_fused else {}),
        )
        self._parts = [part for part, _ in groups]

    def clip(self) -> Tensor:
        """Scales the gradients down to the largest norm allowed; their norm before, a scalar."""
        return nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)

    def update(self, step: int) -> None:
        """One update at the rate of a step, counted from 0; the gradients are gone afterwards."""
        self.lr = scheduled_rate(
            step, num_steps=self.num_steps, peak=self.peak_lr, warmup=self.warmup
        )
        for part, group in zip(self._parts, self.adam.param_groups, strict=True):
            group["lr"] = self.lr * part
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """``MOMENT/PARAMETER`` -> tensor."""
        return {
            f"{moment}/{name}": self.adam.state[parameter][moment]
            for name, parameter in self.parameters.items()
            if parameter in self.adam.state
            for moment in MOMENTS
            if moment in self.adam.state[parameter]
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`."""
        for name, parameter in self.parameters.items():
            moments = {moment: state.get(f"{moment}/{name}") for moment in MOMENTS}
            # Copies: the moments are changed in place. The step count may live on the CPU.
            count = parameter.device if self._is_fused else torch.device("cpu")
            found = {
                moment: tensor.to(count if moment == "step" else parameter.device, copy=True)
                for moment, tensor in moments.items()
                if tensor is not None
            }
            if found:
                self.adam.state[parameter] = found
