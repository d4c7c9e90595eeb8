import math

import pytest
import torch

from muse.head.loss import symmetric_info_nce


def child_loss(text, video, scale: float, rows: list[int], masked: bool) -> float:
    def cosine(a, b) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    size, total = len(rows), 0.0
    for i in range(size):
        for flipped in (False, True):
            exps = {}
            for j in range(size):
                if masked and i != j and rows[i] == rows[j]:
                    continue
                pair = (text[j], video[i]) if flipped else (text[i], video[j])
                exps[j] = math.exp(scale * cosine(*pair))
            total -= math.log(exps[i] / sum(exps.values()))
    return total / (2 * size)


@pytest.mark.parametrize("duplicates", ["masked", "negatives"])
def test_loss_is_the_double_loop(duplicates: str) -> None:
    text_BD = torch.randn(5, 3, dtype=torch.float64)
    video_BD = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=-1)
    rows = [4, 7, 4, 1, 4]
    found = symmetric_info_nce(
        text_BD,
        video_BD,
        torch.tensor(math.log(3.0), dtype=torch.float64),
        torch.tensor(rows),
        duplicates=duplicates,
    )
    wanted = child_loss(text_BD.tolist(), video_BD.tolist(), 3.0, rows, duplicates == "masked")
    assert float(found) == pytest.approx(wanted, abs=1e-12)


def test_batch_of_one_video_teaches_nothing_and_stays_finite() -> None:
    video_BD = torch.nn.functional.normalize(torch.randn(3, 4), dim=-1).requires_grad_()
    rows_B = torch.zeros(3, dtype=torch.long)
    loss = symmetric_info_nce(torch.randn(3, 4), video_BD, torch.tensor(4.6), rows_B)
    loss.backward()
    assert loss.item() == 0
    assert not video_BD.grad.any()
