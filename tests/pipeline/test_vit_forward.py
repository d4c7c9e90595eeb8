"""The own forward pass against open_clip's over the same weights, and which models it refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from muse.errors import EncoderError
from muse.pipeline.encoders import vit_forward
from muse.pipeline.encoders.known_vit import why_unknown_image, why_unknown_text
from muse.pipeline.encoders.vit_forward import embed_texts, run_image_tower, run_open_clip_tower

pytestmark = pytest.mark.slow  # open_clip takes seconds to load: no test here loads it on import

BLOCKS = (1, 2, 3)
MODELS: dict[str, dict[str, Any]] = {
    "QuickGELU": {"quick_gelu": True},
    "GELU": {},
    "no ln_pre": {"no_ln_pre": True},
    "GELU by tanh": {"act_kwargs": {"approximate": "tanh"}},
}


def new_model(*, quick_gelu: bool = False, side: int = 48, **vision: Any) -> Any:
    """3 x 3 patches, three blocks of width 48 with four heads, weights of which none is 0 or 1."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    towers: dict[str, Any] = {"layers": 3, "width": 48}
    model = CLIP(
        embed_dim=20,
        vision_cfg={**towers, "head_width": 12, "image_size": side, "patch_size": 16, **vision},
        text_cfg={**towers, "heads": 4, "context_length": 9, "vocab_size": 30},
        quick_gelu=quick_gelu,
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.eval()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return new_model(**MODELS[request.param])


def pixels_of(num: int = 3) -> Tensor:
    return torch.randn(num, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def ids_of(num: int = 5) -> Tensor:
    ids = torch.randint(1, 28, (num, 9), generator=torch.Generator().manual_seed(2))
    ids[torch.arange(num), torch.arange(num) + 3] = 29  # the ends
    return ids


def gradients_of(module: nn.Module, outputs: list[Tensor]) -> dict[str, Tensor]:
    """Of a sum in which every value has another share, by the parameters' names."""
    own = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    drawn = torch.Generator().manual_seed(3)
    shares = [torch.randn(made.shape, generator=drawn).to(made.device) for made in outputs]
    total = sum((made.float() * its).sum() for made, its in zip(outputs, shares, strict=True))
    assert isinstance(total, Tensor)
    made = torch.autograd.grad(total, list(own.values()), allow_unused=True)
    return {name: its for name, its in zip(own, made, strict=True) if its is not None}


def relative_error(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


def differing(found: dict[str, Tensor], wanted: dict[str, Tensor], *, by: float) -> list[str]:
    assert found.keys() == wanted.keys()
    errors = {name: relative_error(found[name], wanted[name]) for name in wanted}
    return [f"{name}: {error:.1e}" for name, error in errors.items() if not error <= by]


def test_all_blocks_and_the_last_norm_are_open_clip_s(model: Any) -> None:
    assert why_unknown_image(model.visual) is None
    found = run_image_tower(model.visual, pixels_of(), kept=BLOCKS)
    wanted = run_open_clip_tower(model.visual, pixels_of(), kept=BLOCKS)
    assert tuple(found[0]) == BLOCKS
    for number in BLOCKS:
        assert relative_error(found[0][number], wanted[0][number]) < 1e-5
    assert relative_error(found[1], wanted[1]) < 1e-5


def test_all_gradients_of_the_image_tower_are_open_clip_s(model: Any) -> None:
    gradients = []
    for run in (run_image_tower, run_open_clip_tower):
        maps, last = run(model.visual, pixels_of(), kept=BLOCKS)
        gradients.append(gradients_of(model.visual, [maps[2], last @ model.visual.proj]))
    assert "conv1.weight" in gradients[0]
    assert differing(*gradients, by=1e-5) == []


def test_texts_and_all_their_gradients_are_open_clip_s(model: Any) -> None:
    assert why_unknown_text(model) is None
    found, wanted = embed_texts(model, ids_of()), model.encode_text(ids_of())
    assert relative_error(found, wanted) < 1e-5
    gradients = [gradients_of(model, [made]) for made in (found, wanted)]
    assert differing(*gradients, by=1e-5) == []


def test_no_text_token_sees_those_behind_it() -> None:
    model, ids = new_model(), ids_of(1)
    changed = ids.clone()
    changed[:, 4:] = 1  # behind the end
    assert torch.equal(embed_texts(model, ids), embed_texts(model, changed))


def test_sums_stay_float32_under_autocast() -> None:
    model = new_model(quick_gelu=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = run_image_tower(model.visual, pixels_of(), kept=BLOCKS)
    wanted = run_image_tower(model.visual, pixels_of(), kept=BLOCKS)
    assert [found[0][number].dtype for number in BLOCKS] == [torch.float32] * 3
    assert found[1].dtype == torch.bfloat16
    assert relative_error(found[1], wanted[1]) < 1e-2


# -- what it is not the pass of ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vision", "words"),
    [
        ({"ls_init_value": 0.1}, "in block 1 branches are scaled"),
        ({"patch_dropout": 0.5}, "it drops patches"),
        ({"qk_norm": True}, "in block 1 there are other parts"),
        ({"image_size": 50}, "its input, 50x50, is no square of whole patches"),
        ({"image_size": [48, 32]}, "its input, 48x32, is no square of whole patches"),
        ({"layers": [1, 1, 1, 1]}, "it is a ModifiedResNet"),
    ],
)
def test_another_image_tower_is_left_to_open_clip(vision: dict[str, Any], words: str) -> None:
    assert words in (why_unknown_image(new_model(**vision).visual) or "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda visual: setattr(visual.conv1, "stride", (8, 8)), "conv1 are no squares side"),
        (lambda visual: setattr(visual.conv1, "padding", (1, 1)), "conv1 are no squares side"),
        (lambda visual: setattr(visual.conv1, "dilation", (2, 2)), "conv1 are no squares side"),
        (lambda visual: setattr(visual, "ln_post", nn.Identity()), "ln_post is no LayerNorm"),
        (lambda visual: setattr(visual.ln_pre, "bias", None), "ln_pre is no LayerNorm with"),
        (
            lambda visual: setattr(visual.transformer, "batch_first", False),
            "its transformer is another",
        ),
        (
            lambda visual: setattr(visual.transformer.resblocks[1].attn, "dropout", 0.1),
            "in block 2 the attention is set otherwise",
        ),
        (
            lambda visual: setattr(visual.transformer.resblocks[2].attn, "in_proj_bias", None),
            "in block 3 the attention has other weights",
        ),
        (
            lambda visual: setattr(visual.transformer.resblocks[0].mlp, "gelu", nn.ReLU()),
            "in block 1 the activation is a ReLU",
        ),
        (
            lambda visual: visual.transformer.resblocks[0].mlp.append(nn.Dropout()),
            "in block 1 the MLP has other parts",
        ),
    ],
)
def test_a_tower_with_one_other_property_is_left_to_open_clip(
    change: Callable[[Any], None], words: str
) -> None:
    visual = new_model().visual
    change(visual)
    assert words in (why_unknown_image(visual) or "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.attn_mask.zero_(), "its mask is not causal"),
        (lambda model: setattr(model, "attn_mask", None), "its mask is not causal"),
        (lambda model: setattr(model, "text_pool_type", "last"), "its texts are pooled by 'last'"),
        (lambda model: setattr(model, "text_projection", None), "its text projection is no matrix"),
    ],
)
def test_another_text_tower_is_left_to_open_clip(change: Callable[[Any], Any], words: str) -> None:
    model = new_model()
    change(model)
    assert words in (why_unknown_text(model) or "")


# -- in an encoder -------------------------------------------------------------------------------


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The own pass on a CPU too."""
    from muse.pipeline.encoders import open_clip

    monkeypatch.setattr(open_clip, "runs_on", lambda device: True)


def build(spec: str) -> Any:
    from muse.pipeline.encoders.base import build_encoder

    return build_encoder(spec, device="cpu", precision="fp32")


def test_an_encoder_has_the_same_maps_of_every_view_by_either_pass(
    tiny_clip: str, request: pytest.FixtureRequest
) -> None:
    views = ("block:1", "tokens", "unprojected", "block:2")
    frames = np.random.default_rng(0).integers(0, 256, size=(3, 64, 64, 3), dtype=np.uint8)
    wanted = build(tiny_clip).encode_frames(frames, views)
    request.getfixturevalue("everywhere")
    own = build(tiny_clip)
    assert own._has_own_pass
    found = own.encode_frames(frames, views)
    for view in views:
        np.testing.assert_allclose(found[view], wanted[view], atol=2e-3, rtol=2e-3)
    assert own.encode_frames(frames)["tokens"].tobytes() == found["tokens"].tobytes()


@pytest.mark.usefixtures("everywhere")
def test_an_own_pass_that_is_wrong_is_blamed(
    tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vit_forward, "quick_gelu", torch.nn.functional.gelu)
    with pytest.raises(EncoderError, match="The model is not to blame"):
        build(tiny_clip)


@pytest.mark.usefixtures("everywhere")
def test_a_model_that_pools_otherwise_is_blamed_itself(tiny_clip: str) -> None:
    with pytest.raises(EncoderError, match="Its pooling is not the class token's"):
        build("openclip:muse-tiny-avg/random")


# -- on a GPU ------------------------------------------------------------------------------------

# Of six blocks in float64; rounding alone makes 1.2e-6, 1.7e-2 and 2.1e-3 on a CPU.
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
LARGE: dict[str, Any] = {"quick_gelu": True, "width": 256, "head_width": 64, "layers": 6}


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
class TestOnGpu:
    @pytest.mark.parametrize("dtype", list(LIMITS))
    def test_maps_are_open_clip_s(self, dtype: torch.dtype) -> None:
        exact = new_model(**LARGE, side=224).double()
        pixels = torch.randn(4, 3, 224, 224, dtype=torch.float64)
        with torch.no_grad():
            maps, last = run_open_clip_tower(exact.visual, pixels, kept=(3, 6))
            visual = exact.visual.to("cuda", dtype)
            found = run_image_tower(visual, pixels.to("cuda", dtype), kept=(3, 6))
        for number in (3, 6):
            assert found[0][number].dtype == dtype
            assert relative_error(found[0][number].cpu(), maps[number]) < LIMITS[dtype]
        assert relative_error(found[1].cpu(), last) < LIMITS[dtype]

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
    def test_a_store_of_open_clip_s_pass_goes_on(
        self, precision: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from muse.pipeline.encoders import open_clip
        from muse.pipeline.encoders.base import build_encoder
        from muse.pipeline.golden import measure_golden, require_same_golden

        own = build_encoder("openclip:muse-nano", device="cuda", precision=precision)
        monkeypatch.setattr(open_clip, "runs_on", lambda device: False)
        theirs = build_encoder("openclip:muse-nano", device="cuda", precision=precision)
        goldens = [measure_golden(encoder) for encoder in (own, theirs)]
        require_same_golden(*goldens, precision=precision, what="the store")

    def test_gradients_under_autocast_are_as_near_as_open_clip_s(self) -> None:
        model = new_model(**LARGE, side=224)
        pixels, ids = torch.randn(4, 3, 224, 224), ids_of()

        def gradients(run: Any, embed: Any, device: str, *, enabled: bool) -> dict[str, Tensor]:
            with torch.autocast(device, torch.bfloat16, enabled=enabled):
                _, last = run(model.visual, pixels.to(device), kept=(6,))
                made = [last @ model.visual.proj, embed(ids.to(device))]
            return {name: its.cpu() for name, its in gradients_of(model, made).items()}

        exact = gradients(run_open_clip_tower, model.encode_text, "cpu", enabled=False)
        model.cuda()
        theirs = gradients(run_open_clip_tower, model.encode_text, "cuda", enabled=True)
        ours = gradients(run_image_tower, lambda ids: embed_texts(model, ids), "cuda", enabled=True)
        for name, wanted in exact.items():
            limit = 2 * relative_error(theirs[name], wanted) + 1e-3
            assert relative_error(ours[name], wanted) < limit, name
