"""The average of weights over the steps of a training. Knows nothing of what changes them."""

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightAverage:
    """An exponential moving average of weights by name.

    After step n it is the mean of the weights after steps 1 to n, those after step i weighing
    ``decay ** (n - i)``. The initial weights have no part in it, so that a short run's average is
    no mixture with an untrained head.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        """Empty before the first step."""

    @torch.no_grad()
    def add(self, weights: Mapping[str, Tensor], *, step: int) -> None:
        """Takes in the weights after a step, counted from 1."""
        share = (1 - self.decay) / (1 - self.decay**step)  # 1 for the first
        for name, tensor in weights.items():
            if step == 1:
                self.weights[name] = tensor.detach().clone()
            else:
                self.weights[name].lerp_(tensor, share)

    def restore(self, weights: Mapping[str, Tensor], *, device: torch.device) -> None:
        """Goes on from the ``weights`` of another."""
        self.weights = {name: tensor.to(device, copy=True) for name, tensor in weights.items()}
