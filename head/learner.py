"""One training step, and all that changes from step to step.

The loss needs all videos of a batch at once; their activations need not be in memory at once. As in
GradCache (Gao et al. 2021, sec. 3), a batch of more than ``videos_at_once`` is embedded without
activations, the loss gives a gradient for each embedding, and each part is embedded again, with
the same dropout, to carry its gradient on. Knows nothing of stores, epochs or files.
"""

# Legend: B pairs in a batch, V videos in it, P videos of a part, D width.

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from muse.errors import MuseError
from muse.head.checkpoint import load_weights
from muse.head.data import HeadBatch, VideoBatch
from muse.head.devices import Precision, autocast, random_state, set_random_state
from muse.head.loss import Duplicates, symmetric_info_nce
from muse.head.model import RetrievalHead
from muse.head.optimizer import HeadOptimizer
from muse.head.process_group import ALONE, ProcessGroup
from muse.head.training_state import TrainingState
from muse.head.weight_average import WeightAverage


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
        ema: float = 0.0,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.head = head.train()
        self.optimizer = optimizer
        self.duplicates: Duplicates = duplicates
        self.videos_at_once = videos_at_once
        self.precision: Precision = precision
        self.average = WeightAverage(ema) if ema else None
        self.group = group
        self.device = head.logit_scale.device
        self.step = 0

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Those that the head is used with: averaged where an average is kept."""
        return self.average.weights if self.average else self.head.state_dict()

    def learn(self, batches: Iterable[HeadBatch], *, num_batches: int = 1) -> tuple[float, float]:
        """One step; the mean loss of its batches before it and its gradient's norm before clipping.

        Each batch's loss knows the batch's own negatives only: several batches are no larger batch,
        as the parts of ``videos_at_once`` are.

        Args:
            batches: As many as ``num_batches``, taken one by one.
            num_batches: Over how many the loss is averaged.

        Raises:
            MuseError: If either is not finite; the weights are then as before.
        """
        losses = [self._add_gradient(batch, num_batches=num_batches) for batch in batches]
        assert len(losses) == num_batches
        self._sum_gradients()
        # One wait for the device: launches of what follows do not stand between two.
        *values, grad_norm = torch.stack([*losses, self.optimizer.clip()]).tolist()
        loss = sum(values) / num_batches
        self._require_finite(loss, grad_norm)
        self.optimizer.update(self.step)
        self.head.clamp_logit_scale()
        self.step += 1
        if self.average:
            self.average.add(self.head.state_dict(), step=self.step)
        return loss, grad_norm

    def state(self) -> TrainingState:
        """All of it, between two steps; every worker calls it, for the others' random states."""
        return TrainingState(
            step=self.step,
            head=self.head.state_dict(),
            optimizer=self.optimizer.state(),
            random=self.group.gather_states(random_state(self.device)),
            average=self.average.weights if self.average else {},
        )

    def restore(self, state: TrainingState, *, source: Path) -> None:
        """Goes on from a checkpoint, which may come from another device.

        Raises:
            CheckpointError: If the weights are another head's, naming ``source``.
        """
        load_weights(self.head, state.head, source=source)
        self.optimizer.restore(state.optimizer)
        # A worker that was not there then keeps the state that it has.
        if own := self.group.own_state(state.random):
            set_random_state(own, self.device)
        self.step = state.step
        if self.average:
            self.average.restore(state.average, device=self.device)

    def _add_gradient(self, batch: HeadBatch, *, num_batches: int) -> Tensor:
        """Adds a batch's share of the gradient; its loss, on the device."""
        batch = batch.map(lambda tensor: tensor.to(self.device, non_blocking=True))
        parts = batch.videos.split(self.videos_at_once)
        if len(parts) > 1:
            return self._backward_parts(batch, parts, num_batches=num_batches)
        loss = self._loss(batch, self._embed(batch.videos))
        torch.autograd.backward(loss / num_batches)
        return loss.detach()

    def _backward_parts(
        self, batch: HeadBatch, parts: Sequence[VideoBatch], *, num_batches: int
    ) -> Tensor:
        random_states, embedded = [], []
        with torch.no_grad():
            for part in parts:
                random_states.append(random_state(self.device))
                embedded.append(self._embed(part))
        embedded = [video_PD.requires_grad_() for video_PD in embedded]
        loss = self._loss(batch, torch.cat(embedded))
        torch.autograd.backward(loss / num_batches)
        for part, state, video_PD in zip(parts, random_states, embedded, strict=True):
            set_random_state(state, self.device)
            again_PD = self._embed(part)
            if again_PD.requires_grad:  # mean pooling has no weight
                torch.autograd.backward(again_PD, video_PD.grad)
        return loss.detach()

    def _sum_gradients(self) -> None:
        """From the share that went through this worker's videos to the whole gradient."""
        temperature = self.head.logit_scale
        if temperature.grad is not None:  # not of some videos but of the loss, which all have whole
            temperature.grad /= self.group.size
        self.group.sum_gradients(list(self.optimizer.parameters.values()))

    def _embed(self, videos: VideoBatch) -> Tensor:
        if not len(videos.valid_BT):  # a small batch leaves this worker none
            return self.head.logit_scale.new_zeros((0, self.head.config.dim))
        with autocast(self.precision, self.device):
            return self.head.embed_videos(videos.tokens_BTKD, videos.valid_BT)

    def _embed_texts(self, texts: Tensor) -> Tensor:
        """Of the whole batch; where a tower is trained, from this worker's part of the texts."""
        if texts.is_floating_point():
            return self.head.embed_texts(texts)
        part_PC = texts[self.group.part(np.arange(len(texts)))]
        if not len(part_PC):  # as `_embed`
            part_PD = self.head.logit_scale.new_zeros((0, self.head.config.dim))
            return self.group.gather_rows(part_PD, num_rows=len(texts))
        with autocast(self.precision, self.device):
            part_PD = self.head.embed_texts(part_PC).to(self.head.logit_scale.dtype)
        return self.group.gather_rows(part_PD, num_rows=len(texts))

    def _loss(self, batch: HeadBatch, video_PD: Tensor) -> Tensor:
        """Of the whole batch, from this worker's part of its videos."""
        video_VD = video_PD
        if self.group.size > 1:
            video_VD = self.group.gather_rows(video_PD, num_rows=batch.num_videos)
        return symmetric_info_nce(
            self._embed_texts(batch.text_BD),
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
