"""The encoder that a finetuned run made: what encodes a store again for the run's head.

It needs no store: a run's files say of which encoder and from which view its towers begin. Has the
form that `muse.pipeline.reencode.ReEncoder` asks for. Knows nothing of rows, shards or files of a
store.
"""

# Legend: N videos, T frames, K tokens a frame, W width of the map, D of the joint space, F frames,
# Q texts.

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import CheckpointError, EncoderError
from muse.head.checkpoint import RunConfig, is_finetuned, load_weights, read_config, read_weights
from muse.head.devices import Device, resolve_device
from muse.head.embeddings import embed_texts
from muse.head.finetune import FinetunedHead, head_over_towers
from muse.head.lora import merge_adapters
from muse.head.model import RetrievalHead
from muse.head.run_files import TOWERS_FILE, read_tensors
from muse.pipeline.header import EncoderInfo, Golden

FINETUNED = "finetuned:"
"""How the spec of such an encoder begins; the one that it was made of follows."""
FRAMES_AT_A_TIME = 256
"""Through the towers, at most: the memory that encoding takes does not grow with a batch."""


class RunEncoder:
    """The towers of one run, loaded when the first map or text comes.

    Args:
        run: The run's folder, for messages.
        config: The run's settings.
        towers: Its trained tensors by name.
        device: Where it computes.
    """

    golden: Golden | None = None
    """Nobody asks: the hash of its weights is its own."""

    def __init__(
        self, run: Path, config: RunConfig, towers: Mapping[str, Tensor], *, device: torch.device
    ) -> None:
        self.info = _info_of(config.store.encoder, towers)
        self._run, self._config, self._towers, self._device = run, config, towers, device

    @torch.no_grad()
    def encode_clips(
        self, maps_NTKW: NDArray[Any], valid_NT: NDArray[np.bool_]
    ) -> NDArray[np.float16]:
        """(N, T, K, D) finite tokens of maps of any form that the run's towers read.

        Padded frames are computed too: how many frames a call has decides a frame's last bit, and
        it must not depend on which other videos are in the batch.

        Raises:
            EncoderError: If a frame's token is not finite in float16.
        """
        num_videos, num_frames = valid_NT.shape
        frames = maps_NTKW.reshape(num_videos * num_frames, 1, *maps_NTKW.shape[2:])
        parts = [
            self._tokens(frames[start : start + FRAMES_AT_A_TIME])
            for start in range(0, len(frames), FRAMES_AT_A_TIME)
        ]
        tokens_FKD = np.concatenate(parts)
        tokens_NTKD = tokens_FKD.reshape(num_videos, num_frames, *tokens_FKD.shape[1:])
        self._require_finite(tokens_NTKD[valid_NT], "tokens")
        return tokens_NTKD

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float16] | None:
        """(Q, D), not normalised; None where the run's text tower was frozen.

        Raises:
            EncoderError: If a value is not finite in float16.
        """
        if not self._config.train["finetune_text"]:
            return None
        embedded_QD = embed_texts(self._head, texts)
        if embedded_QD is None:
            return None
        stored: NDArray[np.float16] = embedded_QD.half().numpy()
        self._require_finite(stored, "captions")
        return stored

    def _tokens(self, frames: NDArray[Any]) -> NDArray[np.float16]:
        """(F, K, D) of (F, 1, K, W), or of what else a frame's map is."""
        maps = torch.from_numpy(frames).to(self._device)
        every = torch.ones(maps.shape[:2], dtype=torch.bool, device=self._device)
        tokens: NDArray[np.float16] = self._head.encode_maps(maps, every)[:, 0].half().cpu().numpy()
        return tokens

    @cached_property
    def _head(self) -> FinetunedHead:
        # Its own part computes nothing here, so any backend of the scan will do.
        train = self._config.train
        lora = int(train.get("lora", 0))
        head = head_over_towers(
            RetrievalHead(self._config.head, scan="reference"),
            self._config.store,
            finetune=str(train["finetune"]),
            with_text=bool(train["finetune_text"]),
            lora=lora,
        )
        tensors = {**read_weights(self._run), **self._towers}
        load_weights(head, tensors, source=self._run / TOWERS_FILE)
        if lora:
            merge_adapters(head.towers)
        return head.to(self._device).eval()

    def _require_finite(self, values: NDArray[np.float16], what: str) -> None:
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise EncoderError(
                f"{self._run}: {bad} of {values.size} values of its {what} are not finite in "
                "float16. Its training diverged, or the file is damaged; train again with a "
                "smaller --clip-lr."
            )


def load_reencoder(run: Path, *, device: Device = "auto") -> RunEncoder:
    """What a finetuned run encodes a store with.

    Args:
        run: Its folder.
        device: Where it computes.

    Raises:
        CheckpointError: If the run is missing, is not finetuned, has no checkpoint yet, or is
            damaged.
        MuseError: If the device can't run here.
    """
    config = read_config(run)
    if not is_finetuned(config):
        raise CheckpointError(
            f"{run}: not finetuned, so it reads the store that it was trained on. Use that store."
        )
    read_weights(run)  # before the larger file: its message says what to do
    towers, _ = read_tensors(run / TOWERS_FILE)
    return RunEncoder(run, config, towers, device=resolve_device(device))


def _info_of(source: EncoderInfo, towers: Mapping[str, Tensor]) -> EncoderInfo:
    """The source's encoder with a name and weights of its own, in float32 wherever it runs."""
    return dataclasses.replace(
        source,
        spec=f"{FINETUNED}{source.spec}",
        weights_sha256=_hash_of(source.weights_sha256, towers),
        precision="fp32",
    )


def _hash_of(source_sha256: str, towers: Mapping[str, Tensor]) -> str:
    """SHA-256 over the weights that the towers began with, and what was trained of them.

    The trained ones by their names, types, shapes and bytes, in the order of the names.
    """
    digest = hashlib.sha256(source_sha256.encode())
    for name in sorted(towers):
        tensor = towers[name].contiguous()
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
