import pytest
import torch

from muse.head.weight_average import WeightAverage


def test_average_weighs_the_newest_most_and_the_initial_not_at_all() -> None:
    average = WeightAverage(0.5)
    weight = torch.tensor([9.0])  # before the first step
    for step, value in enumerate((1.0, 2.0, 4.0), start=1):
        weight.fill_(value)
        average.add({"w": weight}, step=step)
    # 4 counts 1, 2 counts 1/2, 1 counts 1/4
    assert average.weights["w"].item() == pytest.approx((4 + 2 / 2 + 1 / 4) / 1.75)


def test_average_goes_on_from_another_with_the_same_bits() -> None:
    steps = [torch.randn(5) for _ in range(4)]
    whole, cut, again = (WeightAverage(0.9) for _ in range(3))
    for step, weight in enumerate(steps, start=1):
        whole.add({"w": weight}, step=step)
    for step, weight in enumerate(steps[:2], start=1):
        cut.add({"w": weight}, step=step)
    again.restore(cut.weights, device=torch.device("cpu"))
    for step, weight in enumerate(steps[2:], start=3):
        again.add({"w": weight}, step=step)
    assert torch.equal(again.weights["w"], whole.weights["w"])
