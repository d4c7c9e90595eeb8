"""BertAdam against plain numbers, what is decayed, and state that is put back."""

import math
from collections.abc import Sequence

import pytest
import torch

from muse.head.model import HeadConfig, RetrievalHead
from muse.head.optimizer import HeadOptimizer, OptimizerName, has_weight_decay

HEAD = HeadConfig(dim=16, factors=(0.5, 1.0), depth=1, d_state=4)


def new_optimizer(module: torch.nn.Module, name: OptimizerName, **changes) -> HeadOptimizer:
    settings = {"peak_lr": 0.1, "warmup": 0.0, "num_steps": 4, "weight_decay": 0.2}
    return HeadOptimizer(module, **{**settings, "max_grad_norm": 9.0, "optimizer": name, **changes})


class OneWeight(torch.nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))


def bert_adam(weight: float, gradients: Sequence[float]) -> list[float]:
    """A number after each step, as BERT's first code moves it: rates 0.1 on half a cosine."""
    m = v = 0.0
    found = []
    for step, gradient in enumerate(gradients):
        if abs(gradient) > 1:  # the norm of one number
            gradient = math.copysign(1.0, gradient)
        m = 0.9 * m + 0.1 * gradient
        v = 0.98 * v + 0.02 * gradient * gradient
        rate = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 4))
        weight = weight - rate * (m / (math.sqrt(v) + 1e-6) + 0.2 * weight)
        found.append(weight)
    return found


def test_bert_adam_is_adam_without_bias_correction_and_with_a_norm_for_each_gradient() -> None:
    module, gradients, found = OneWeight(2.0), (0.5, -3.0, 0.25), []
    optimizer = new_optimizer(module, "bertadam", decay="published")
    for step, gradient in enumerate(gradients):
        module.weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.update(step)
        found.append(module.weight.item())
    assert found == pytest.approx(bert_adam(2.0, gradients), rel=1e-5)


def test_a_gradient_s_own_norm_is_what_bert_adam_scales_down() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    optimizer = new_optimizer(layer, "bertadam", weight_decay=0.0)
    for gradient in (100.0, 1.0):  # the first counts as 1 too, or the second would be lost in it
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.update(0)
    m, v = (0.9 * 0.1 + 0.1), (0.98 * 0.02 + 0.02)
    wanted = -0.1 * (0.1 / math.sqrt(0.02) + m / math.sqrt(v))
    assert layer.weight.item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "bertadam"])
def test_state_that_is_put_back_moves_the_weights_as_before(name: OptimizerName) -> None:
    gradients = [torch.randn(3, 2) for _ in range(4)]
    whole, cut, again = (torch.nn.Linear(2, 3, bias=False) for _ in range(3))
    cut.load_state_dict(whole.state_dict())

    def run(layer: torch.nn.Linear, optimizer: HeadOptimizer, steps: Sequence[int]) -> None:
        for step in steps:
            layer.weight.grad = gradients[step].clone()
            optimizer.update(step)

    run(whole, new_optimizer(whole, name), range(4))
    first = new_optimizer(cut, name)
    run(cut, first, range(2))
    again.load_state_dict(cut.state_dict())
    second = new_optimizer(again, name)
    second.restore(first.state())
    run(again, second, range(2, 4))
    assert torch.equal(again.weight, whole.weight)
    assert set(first.state()) == {
        *(["step/weight"] if name == "adamw" else []),
        *("exp_avg/weight", "exp_avg_sq/weight"),
    }


def test_published_decay_spares_biases_and_the_temperature() -> None:
    head = RetrievalHead(HEAD)
    decayed = {
        name
        for name, value in head.named_parameters()
        if has_weight_decay(name, value, rule="published")
    }
    block = "aggregator.blocks.0."
    assert {f"{block}norm.weight", f"{block}mamba.A_log", f"{block}mamba.D"} < decayed
    assert {f"{block}mamba.conv1d.weight", f"{block}mamba.D_b", f"{block}gate.weight"} < decayed
    spared = {name.rsplit(".", 1)[-1] for name, _ in head.named_parameters()} - {
        name.rsplit(".", 1)[-1] for name in decayed
    }
    assert spared == {"bias", "logit_scale"}
