"""Makes what a run trains, from its settings: the head, its optimiser, what the loader reads.

Knows nothing of steps, files or checkpoints.
"""

import logging

import torch

from muse.errors import UsageError
from muse.head.aggregator import MuseAggregator
from muse.head.data import SplitSelection
from muse.head.devices import Precision
from muse.head.finetune import FinetunedHead, new_finetuned_head
from muse.head.head_config import HeadConfig
from muse.head.learner import Learner
from muse.head.model import RetrievalHead
from muse.head.optimizer import HeadOptimizer
from muse.head.process_group import ProcessGroup
from muse.head.pyramid import cells_per_scale
from muse.head.scan.select import ScanBackend, resolve_backend, why_not
from muse.head.train_config import NO_FINETUNE, VIDEOS_AT_ONCE, TrainConfig
from muse.pipeline.store import FeatureStore

logger = logging.getLogger(__name__)


def require_fitting(head: HeadConfig, config: TrainConfig, store: FeatureStore) -> None:
    """Refuses, before a folder is made, what this store's encoder does not have.

    Raises:
        UsageError: If the patches have not the scales, or adapters are wider than the towers.
    """
    if head.aggregator == "muse":
        cells_per_scale(store.header.encoder.grid, head.factors)
    width = store.header.encoder.width
    if config.lora > width:
        raise UsageError(
            f"lora {config.lora}: the image tower of {store.header.encoder.spec} is {width} wide, "
            "and a rank above that adapts nothing more. Choose a lower one, such as 8."
        )


def resolve_scan(config: TrainConfig, device: torch.device, head: HeadConfig) -> ScanBackend:
    """Never ``auto``.

    Raises:
        MuseError: If what was asked for can't run a head's scan on the device.
    """
    scan = resolve_backend(config.scan, device, d_state=head.d_state, d_conv=head.d_conv)
    if device.type == "cuda" and config.scan == "auto" and scan != "cuda":
        reason = why_not("cuda", device, d_state=head.d_state, d_conv=head.d_conv)
        logger.warning("scan %s, not cuda: %s", scan, reason)
    return scan


def new_head(
    head: HeadConfig,
    store: FeatureStore,
    config: TrainConfig,
    device: torch.device,
    scan: ScanBackend,
) -> RetrievalHead:
    """A head with initial weights, from the global random state, over towers where they train."""
    module = RetrievalHead(head, scan=scan)
    if config.finetune != NO_FINETUNE:
        module = new_finetuned_head(
            module,
            store,
            finetune=config.finetune,
            with_text=config.finetune_text,
            recompute=config.recompute,
            lora=config.lora,
            random_crops=config.augment == "crop",
        )
    if isinstance(module.aggregator, MuseAggregator):
        module.aggregator.recompute = config.recompute
    return module.to(device)


def new_learner(
    module: RetrievalHead,
    config: TrainConfig,
    device: torch.device,
    precision: Precision,
    group: ProcessGroup,
    *,
    num_steps: int,
) -> Learner:
    """What trains a head."""
    rates = None
    if isinstance(module, FinetunedHead):
        rates = module.peak_rates(config.clip_lr, layer_decay=config.layer_decay)
    optimizer = HeadOptimizer(
        module,
        peak_lr=config.lr,
        warmup=config.warmup,
        num_steps=num_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optimizer=config.optimizer,
        decay=config.decay,
        peak_rates=rates,
    )
    return Learner(
        module,
        optimizer,
        duplicates=config.duplicates,
        videos_at_once=config.videos_at_once or VIDEOS_AT_ONCE[device.type],
        precision=precision,
        ema=config.ema,
        group=group,
    )


def token_ids_of(
    head: RetrievalHead, store: FeatureStore, selection: SplitSelection
) -> torch.Tensor | None:
    """(Q, C) of a selection's captions, made once; None where no text tower is trained."""
    return head.token_ids([store.captions[row].text for row in selection.caption_rows_Q])
