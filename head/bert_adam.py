"""BertAdam: Adam as BERT's first code had it, and as CLIP4Clip's line of work has kept it.

Knows nothing of heads, schedules or files.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MAX_GRAD_NORM = 1.0  # of a single parameter; the published code clips the global norm before that


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, with decoupled weight decay and a norm for each gradient.

    m and v start at 0 and are used as they are, so the first step is (1 - β₁) / √(1 - β₂) of the
    rate, 0.71 for the usual betas, where Adam's is 1. The rate and the decay are those of the
    groups, as in torch's optimisers.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        max_grad_norm: float = MAX_GRAD_NORM,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.betas = betas
        self.eps = eps
        self.max_grad_norm = max_grad_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; ``closure`` must be None."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, lr=group["lr"], weight_decay=group["weight_decay"])

    def _update(self, parameter: nn.Parameter, *, lr: float, weight_decay: float) -> None:
        nn.utils.clip_grad_norm_([parameter], self.max_grad_norm)
        gradient = parameter.grad
        assert gradient is not None
        mean, square = self._moments(parameter)
        beta_1, beta_2 = self.betas
        mean.mul_(beta_1).add_(gradient, alpha=1 - beta_1)
        square.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
        parameter.mul_(1 - lr * weight_decay)
        parameter.addcdiv_(mean, square.sqrt().add_(self.eps), value=-lr)

    def _moments(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state["exp_avg"], state["exp_avg_sq"]
