"""What an image-text encoder is, and how one is named.

An encoder turns cropped frames into tokens of a joint space and captions into vectors of the same
space. It knows nothing of videos, files of ours or Ray.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import EncoderError
from muse.pipeline.encoders.reference import Reference
from muse.pipeline.encoders.setting import Precision
from muse.pipeline.header import EncoderInfo, Preprocessing

_FLOAT16_INFINITY_BITS = 0x7C00


class Encoder(Protocol):
    """Letters: B frames or captions, K tokens per frame, D width of the joint space."""

    @property
    def info(self) -> EncoderInfo:
        """What its features depend on."""
        ...

    def frame_maps(
        self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
    ) -> dict[str, Tensor]:
        """Maps of (B, size, size, 3) RGB frames, class token first, not normalised.

        All that it does is left to the device: the host does not wait for it.

        Args:
            frames_BHWC: uint8, cropped, on the encoder's device.
            views: Of `muse.pipeline.views.encoded_views`: ``tokens`` is (B, K, D),
                ``unprojected`` and ``block:k`` are (B, K, W). All from one forward pass, and
                each with the same bits whatever the others are.

        Returns:
            On the device, of any floating type.
        """
        ...

    def encode_frames(
        self, frames_BHWC: NDArray[np.uint8], views: Sequence[str] = ("tokens",)
    ) -> dict[str, NDArray[np.float16]]:
        """`frame_maps` of one batch, as they are stored; for many `encoders.batches` is quicker."""
        ...

    def encode_texts(
        self, texts: Sequence[str], text_length: int | None = None
    ) -> NDArray[np.float16]:
        """(B, D) embeddings of captions, not normalised.

        Args:
            texts: The captions.
            text_length: Tokens of the encoder's own tokenizer at which they are cut, those of
                start and end included. None, and what is beyond it: the encoder's limit.
        """
        ...

    def reference(self) -> Reference:
        """What the weights' own library makes of pictures, by none of muse's steps.

        Loads the weights once more where they are not at hand as float32 on the CPU; drop it soon.
        """
        ...


def build_encoder(spec: str, *, device: str, precision: Precision) -> Encoder:
    """The encoder that a spec names, ready on a device.

    Args:
        spec: ``openclip:MODEL/PRETRAINED`` or ``conse``.
        device: ``cpu`` or ``cuda``.
        precision: Of the matrix products; ``auto`` is bf16 on a GPU and fp32 elsewhere.

    Raises:
        EncoderError: If the name is unknown, or its weights or packages can't be had.
    """
    kind, _, rest = spec.partition(":")
    resolved = resolve_precision(precision, device=device)
    if kind == "openclip" and rest:
        from muse.pipeline.encoders.open_clip import OpenClipEncoder  # loads open_clip

        return OpenClipEncoder.build(rest, device=device, precision=resolved)
    if spec == "conse":
        from muse.pipeline.encoders.conse import ConseEncoder  # loads transformers

        return ConseEncoder.build(device=device, precision=resolved)
    raise EncoderError(
        f"encoder {spec!r}: unknown. Write openclip:MODEL/PRETRAINED, such as "
        "openclip:ViT-B-32-quickgelu/openai, or conse."
    )


def absolute_spec(spec: str) -> str:
    """The spec with a relative file or folder in it made absolute: workers have other folders."""
    kind, _, rest = spec.partition(":")
    if kind != "openclip":
        return spec
    if rest.startswith("local-dir:"):
        return f"openclip:local-dir:{Path(rest.removeprefix('local-dir:')).absolute()}"
    model, _, pretrained = rest.partition("/")
    is_file = not rest.startswith("hf-hub:") and Path(pretrained).is_file()
    return f"openclip:{model}/{Path(pretrained).absolute()}" if is_file else spec


def resolve_device(device: str) -> str:
    """``auto`` resolved to ``cuda`` where there is a GPU, else ``cpu``.

    Raises:
        EncoderError: If a GPU is asked for and there is none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise EncoderError(f"device {device!r}: choose auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise EncoderError(f"device {device!r}: torch sees no CUDA device. Use --device cpu.")
    return device


def resolve_precision(precision: Precision, *, device: str) -> Literal["fp32", "bf16", "fp16"]:
    """``auto`` resolved to bf16 on a GPU and fp32 elsewhere."""
    if precision == "auto":
        return "bf16" if device.startswith("cuda") else "fp32"
    return precision


def dtype_of(precision: str) -> torch.dtype:
    """The torch type of a precision's name."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def normalised_input(
    frames_BHWC: NDArray[np.uint8], preprocessing: Preprocessing, *, device: str
) -> Tensor:
    """(B, 3, size, size) float32 of frames that are not on the device yet."""
    return normalised(torch.from_numpy(frames_BHWC).to(device).permute(0, 3, 1, 2), preprocessing)


def normalised(levels_B3SS: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(B, 3, size, size) float32: RGB in [0, 1], mean subtracted, divided by std.

    Args:
        levels_B3SS: uint8, on any device.
        preprocessing: The encoder's.
    """
    mean, std = _mean_and_std(preprocessing, levels_B3SS.device)
    return (levels_B3SS.float() / 255.0 - mean) / std


@lru_cache(maxsize=8)
def _mean_and_std(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Kept on the device: to bring them there makes the host wait for all that it computes."""
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return mean, std


def as_float16(values: Tensor, *, what: str) -> NDArray[np.float16]:
    """The values as they are stored.

    Args:
        values: Of any shape and floating type.
        what: Which values they are, for the message.

    Raises:
        EncoderError: If one is not finite in float16.
    """
    stored = values.detach().to(torch.float16).contiguous().cpu()
    array: NDArray[np.float16] = stored.numpy()
    require_finite(array, int(largest_bits(stored)) if stored.numel() else 0, what=what)
    return array


def largest_bits(stored: Tensor) -> Tensor:
    """The largest of the bits behind the signs of float16 values: infinities' and NaN's, if any.

    Args:
        stored: float16 of any shape, not empty.

    Returns:
        A number, int16, on the device that they are on. On a CPU as fast as it reads, where
        NumPy's isfinite takes 15 times as long.
    """
    return (stored.view(torch.int16) & 0x7FFF).max()


def require_finite(stored: NDArray[np.float16], bits: int, *, what: str) -> None:
    """Nothing, if stored values are finite.

    Args:
        stored: Of any shape.
        bits: Of `largest_bits`.
        what: Which values they are, for the message.

    Raises:
        EncoderError: If one is not: such a token would poison every mean.
    """
    if bits >= _FLOAT16_INFINITY_BITS:
        raise EncoderError(
            f"{what}: {int((~np.isfinite(stored)).sum())} of {stored.size} values are not finite "
            "in float16. Try --precision fp32; if that fails too, the weights are damaged, or a "
            "block's output is too large to be stored."
        )


def hash_of_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of all weights, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
