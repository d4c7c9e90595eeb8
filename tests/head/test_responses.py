"""Responses: what they sum to, where a planted patch is found, and what padding may not change."""

import dataclasses
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from muse.errors import UsageError
from muse.head import responses as responses_module
from muse.head.head_config import HeadConfig
from muse.head.model import MeanPoolHead, RetrievalHead, VideoEmbedder
from muse.head.ordering import ORDERS, Order
from muse.head.readout import Readout
from muse.head.responses import Responses, responses
from muse.pipeline.records import ClipTokens

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")
TINY = HeadConfig(dim=8, factors=(0.5, 1.0, 2.0), depth=1, d_state=2)


def opened(config: HeadConfig) -> RetrievalHead:
    made = RetrievalHead(config).eval()
    for name, parameter in made.named_parameters():
        if name.endswith(("gate.weight", "readout.out_proj.weight", "linear2.weight")):
            nn.init.normal_(parameter, std=0.3)
    return made


def video(valid: tuple[int, ...] = (1, 1, 1), *, seed: int = 0) -> ClipTokens:
    rng = np.random.default_rng(seed)
    valid_T = np.array(valid, dtype=bool)
    tokens_TKD = rng.standard_normal((len(valid), 5, 8)) * valid_T[:, None, None]
    return ClipTokens(
        video_id=f"v{seed}",
        tokens_TKD=tokens_TKD.astype(np.float16),
        valid_T=valid_T,
        pts_seconds_T=np.where(valid_T, np.arange(len(valid)), np.nan),
    )


def caption(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(8, dtype=np.float32)


def cosine(head: VideoEmbedder, tokens_TKD: Tensor, text_D: NDArray[np.float32]) -> float:
    """Of a head on frames that are all valid."""
    with torch.no_grad():
        vector_D = head.embed_videos(tokens_TKD[None], torch.ones(1, len(tokens_TKD)).bool())[0]
    return float(vector_D @ torch.from_numpy(text_D)) / float(np.linalg.norm(text_D))


def maps_of(found: Responses) -> list[NDArray[np.float64]]:
    return [found.class_tokens.values_TGG, *(scale.values_TGG for scale in found.by_scale)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("readout", get_args(Readout))
def test_responses_sum_to_what_the_score_loses_when_all_is_alike(
    readout: Readout, order: Order
) -> None:
    made = opened(dataclasses.replace(TINY, readout=readout, order=order))
    clip = video((1, 1, 0))
    found = responses(made, clip, caption(), device=CPU)
    assert found.score == pytest.approx(
        cosine(made, torch.from_numpy(clip.tokens_TKD[:2]), caption()), abs=1e-5
    )
    everything = sum(part.sum() for part in maps_of(found))
    wanted = found.score - found.score_of_alike
    # A maximum has kinks, which equal steps do not meet exactly.
    assert everything == pytest.approx(wanted, abs=5e-3 if readout == "max" else 5e-5)
    assert found.remainder == pytest.approx(wanted - everything, abs=1e-9)
    assert found.by_frame_T.sum() == pytest.approx(everything)
    assert abs(wanted) > 1e-3
    assert [scale.grid for scale in found.by_scale] == [1, 2, 4]


class PatchesAsCells(nn.Module):
    """A pyramid's stage that leaves the patches as they are."""

    def forward(self, patches_FDGG: Tensor) -> Tensor:
        return patches_FDGG.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("readout", ["max", "class"])
def test_the_video_of_alike_tokens_is_one_whose_tokens_are_their_mean(readout: Readout) -> None:
    made = opened(dataclasses.replace(TINY, factors=(1.0,), readout=readout))
    made.aggregator.pyramid.stages[0] = PatchesAsCells()
    clip = video()
    tokens_TKD = torch.from_numpy(clip.tokens_TKD).float()
    alike_TKD = tokens_TKD.clone()
    alike_TKD[:, 0] = tokens_TKD[:, 0].mean(0)
    alike_TKD[:, 1:] = tokens_TKD[:, 1:].flatten(0, 1).mean(0)
    found = responses(made, clip, caption(), device=CPU)
    assert found.score_of_alike == pytest.approx(cosine(made, alike_TKD, caption()), abs=1e-6)


def test_one_patch_that_differs_has_all_of_the_response() -> None:
    made = opened(dataclasses.replace(TINY, factors=(1.0,), readout="attend"))
    made.aggregator.pyramid.stages[0] = PatchesAsCells()
    clip = video()
    clip.tokens_TKD[:] = clip.tokens_TKD[0, 0]
    same = responses(made, clip, caption(), device=CPU)
    assert max(np.abs(part).max() for part in maps_of(same)) < 1e-6
    assert same.score == pytest.approx(same.score_of_alike, abs=1e-6)
    clip.tokens_TKD[2, 1 + 2] = clip.tokens_TKD[0, 0][::-1]  # frame 2, row 1, column 0
    found = responses(made, clip, caption(), device=CPU)
    values_TGG = np.abs(found.by_scale[0].values_TGG)
    assert np.unravel_index(values_TGG.argmax(), values_TGG.shape) == (2, 1, 0)
    assert np.abs(found.class_tokens.values_TGG).max() < 1e-6


@pytest.mark.parametrize("padding", ["dropped", "scanned"])
def test_a_padded_frame_has_no_response(padding: str) -> None:
    made = opened(dataclasses.replace(TINY, padding=padding, readout="pool"))
    found = responses(made, video((1, 1, 0)), caption(), device=CPU)
    for part in maps_of(found):
        assert not part[2].any()
        assert part[:2].all()
    assert np.isnan(found.clip_frames_T).tolist() == [False, False, True]
    assert np.isnan(found.clip_patches_TGG[2]).all()
    assert found.remainder == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_padding_and_what_is_in_it_change_no_number(order: Order) -> None:
    made = opened(dataclasses.replace(TINY, order=order, readout="attend"))
    padded = video((1, 1, 0))
    padded.tokens_TKD[2] = 100
    alone = ClipTokens(
        video_id="v",
        tokens_TKD=padded.tokens_TKD[:2],
        valid_T=padded.valid_T[:2],
        pts_seconds_T=padded.pts_seconds_T[:2],
    )
    found, wanted = (responses(made, clip, caption(), device=CPU) for clip in (padded, alone))
    for part, wanted_part in zip(maps_of(found), maps_of(wanted), strict=True):
        np.testing.assert_allclose(part[:2], wanted_part, atol=1e-6)


def test_points_of_the_line_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made, clip = opened(dataclasses.replace(TINY, readout="attend")), video((1, 1, 0))
    together = responses(made, clip, caption(), device=CPU, num_steps=6)
    monkeypatch.setattr(responses_module, "STEPS_AT_A_TIME", 1)
    one_by_one = responses(made, clip, caption(), device=CPU, num_steps=6)
    for part, wanted in zip(maps_of(together), maps_of(one_by_one), strict=True):
        np.testing.assert_allclose(part, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["mean-pool", "seq-transf", "no scales"])
def test_a_head_without_scales_has_frames_only(kind: str) -> None:
    head: VideoEmbedder = MeanPoolHead()
    if kind != "mean-pool":
        aggregator = "seq-transf" if kind == "seq-transf" else "muse"
        head = opened(dataclasses.replace(TINY, factors=(), aggregator=aggregator))
    clip = video((1, 1, 0))
    found = responses(head, clip, caption(), device=CPU)
    assert found.by_scale == ()
    assert found.class_tokens.values_TGG.shape == (3, 1, 1)
    class_TD = torch.from_numpy(clip.tokens_TKD[:2, 0]).float()
    alike_TKD = class_TD.mean(0).expand(2, 1, -1)
    assert found.score == pytest.approx(cosine(head, class_TD[:, None], caption()), abs=1e-6)
    assert found.score_of_alike == pytest.approx(cosine(head, alike_TKD, caption()), abs=1e-6)
    assert found.by_frame_T.sum() == pytest.approx(found.score - found.score_of_alike, abs=1e-4)


def test_clip_s_own_cosines_are_those_of_each_token() -> None:
    clip, text_D = video(), caption()
    found = responses(MeanPoolHead(), clip, text_D, device=CPU)
    for frame in range(3):
        for token in range(5):
            vector_D = clip.tokens_TKD[frame, token].astype(np.float64)
            wanted = vector_D @ text_D / np.linalg.norm(vector_D) / np.linalg.norm(text_D)
            place = found.clip_patches_TGG[frame, (token - 1) // 2, (token - 1) % 2]
            cosine_of_token = place if token else found.clip_frames_T[frame]
            assert cosine_of_token == pytest.approx(wanted, abs=1e-6)


def test_a_store_of_class_tokens_has_no_patches() -> None:
    clip = dataclasses.replace(video(), tokens_TKD=video().tokens_TKD[:, :1])
    assert responses(MeanPoolHead(), clip, caption(), device=CPU).clip_patches_TGG is None


def test_what_cannot_respond_is_named() -> None:
    with pytest.raises(UsageError, match="steps 0: at least 1"):
        responses(MeanPoolHead(), video(), caption(), device=CPU, num_steps=0)
    with pytest.raises(UsageError, match="v0: no valid frame"):
        responses(MeanPoolHead(), video((0, 0)), caption(), device=CPU)
    with pytest.raises(UsageError, match="tokens of width 8"):
        responses(RetrievalHead(HeadConfig(dim=16)), video(), caption(), device=CPU)
