"""One training step, and all that changes from step to step.

The loss needs all videos of a batch at once; their activations need not be in memory at once. As in
GradCache (Gao et al. 2021, sec. 3), a batch of more than ``videos_at_once`` is embedded without
activations, the loss gives a gradient for each embedding, and each part is embedded again, with
the same dropout, to carry its gradient on. Knows nothing of stores, epochs or files.
"""

# Legend: B pairs in a batch, V videos in it, P videos of a part, D width.

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from muse.errors import MuseError
from muse.head.checkpoint import TrainingState, load_weights
from muse.head.data import HeadBatch, VideoBatch
from muse.head.devices import Precision, autocast, random_state, set_random_state
from muse.head.loss import Duplicates, symmetric_info_nce
from muse.head.model import RetrievalHead
from muse.head.optimizer import HeadOptimizer


class Learner:
    """A head, its optimiser, and how many steps they have made."""

    def __init__(
        self,
        head: RetrievalHead,
        optimizer: HeadOptimizer,
        *,
        duplicates: Duplicates,
        videos_at_once: int,
        precision: Precision,
    ) -> None:
        self.head = head.train()
        self.optimizer = optimizer
        self.duplicates: Duplicates = duplicates
        self.videos_at_once = videos_at_once
        self.precision: Precision = precision
        self.device = head.logit_scale.device
        self.step = 0

    def learn(self, batch: HeadBatch) -> tuple[float, float]:
        """One step; the loss before it and the norm of its gradient before clipping.

        Raises:
            MuseError: If either is not finite; the weights are then as before.
        """
        batch = batch.map(lambda tensor: tensor.to(self.device, non_blocking=True))
        parts = batch.videos.split(self.videos_at_once)
        loss = self._backward(batch) if len(parts) == 1 else self._backward_parts(batch, parts)
        grad_norm = self.optimizer.clip()
        self._require_finite(loss, grad_norm)
        self.optimizer.update(self.step)
        self.head.clamp_logit_scale()
        self.step += 1
        return loss, grad_norm

    def state(self) -> TrainingState:
        """All of it, between two steps."""
        return TrainingState(
            step=self.step,
            head=self.head.state_dict(),
            optimizer=self.optimizer.state(),
            random=random_state(self.device),
        )

    def restore(self, state: TrainingState, *, source: Path) -> None:
        """Goes on from a checkpoint, which may come from another device.

        Raises:
            CheckpointError: If the weights are another head's, naming ``source``.
        """
        load_weights(self.head, state.head, source=source)
        self.optimizer.restore(state.optimizer)
        set_random_state(state.random, self.device)
        self.step = state.step

    def _backward(self, batch: HeadBatch) -> float:
        loss = self._loss(batch, self._embed(batch.videos))
        torch.autograd.backward(loss)
        return loss.item()

    def _backward_parts(self, batch: HeadBatch, parts: Sequence[VideoBatch]) -> float:
        random_states, embedded = [], []
        with torch.no_grad():
            for part in parts:
                random_states.append(random_state(self.device))
                embedded.append(self._embed(part))
        embedded = [video_PD.requires_grad_() for video_PD in embedded]
        loss = self._loss(batch, torch.cat(embedded))
        torch.autograd.backward(loss)
        for part, state, video_PD in zip(parts, random_states, embedded, strict=True):
            set_random_state(state, self.device)
            torch.autograd.backward(self._embed(part), video_PD.grad)
        return loss.item()

    def _embed(self, videos: VideoBatch) -> Tensor:
        with autocast(self.precision, self.device):
            return self.head.embed_videos(videos.tokens_BTKD, videos.valid_BT)

    def _loss(self, batch: HeadBatch, video_VD: Tensor) -> Tensor:
        return symmetric_info_nce(
            batch.text_BD,
            video_VD[batch.video_of_pair_B],
            self.head.logit_scale,
            batch.video_rows_B,
            duplicates=self.duplicates,
        )

    def _require_finite(self, loss: float, grad_norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise MuseError(
                f"step {self.step + 1}: the loss is {loss:g} and its gradient's norm {grad_norm:g}."
                f" Train again with a lower --lr (now {self.optimizer.peak_lr:g}); if that does not"
                " help, see with `muse evaluate STORE --head mean-pool` if the features are sound."
            )
