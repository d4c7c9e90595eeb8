"""Workers train the top of a CLIP together as one does, its text tower too."""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from memory_store import MemoryStore, make_header
from numpy.typing import NDArray
from torch import Tensor
from worker_threads import WorkerThreads

from muse.head.assembly import token_ids_of
from muse.head.data import HeadBatch, select_split
from muse.head.embeddings import SplitEmbeddings, embed_selection
from muse.head.finetune import FinetunedHead, new_finetuned_head
from muse.head.head_config import HeadConfig
from muse.head.learner import Learner
from muse.head.loader import read_pair_batches
from muse.head.model import RetrievalHead
from muse.head.optimizer import HeadOptimizer
from muse.head.process_group import ALONE, ProcessGroup
from muse.pipeline.encoders.base import build_encoder
from muse.pipeline.records import Caption, ClipTokens

CPU = torch.device("cpu")
HEAD = HeadConfig(dim=128, factors=(), depth=1, d_state=2, dropout=0.0)
COLOURS = ("red", "green", "blue", "white", "black")
EVEN = [np.arange(4), np.array([4, 0])]
# Three texts of two videos: of four workers the third has no video, the fourth no text either.
FEW = [np.array([3, 8, 1])]


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    """Made-up maps of one frame below muse-nano's last block; two captions a video."""
    encoder = build_encoder("openclip:muse-nano", device="cpu", precision="fp32").info
    below = f"block:{encoder.num_blocks - 1}"
    rng = np.random.default_rng(0)
    shape = (1, encoder.tokens_per_frame, encoder.width)
    clips = [
        ClipTokens(
            video_id=f"video{row}",
            tokens_TKD=rng.normal(size=shape).astype(np.float16),
            valid_T=np.ones(1, dtype=np.bool_),
            pts_seconds_T=np.zeros(1),
        )
        for row in range(len(COLOURS))
    ]
    captions = [
        Caption(video_id=f"video{row}", text=f"a {colour} {shape}", split="train")
        for shape in ("square", "circle")
        for row, colour in enumerate(COLOURS)
    ]
    header = make_header(num_videos=len(clips), num_captions=len(captions))
    header = dataclasses.replace(
        header,
        encoder=encoder,
        views=("tokens", below),
        sampling=dataclasses.replace(header.sampling, num_frames=1),
    )
    embeddings = rng.normal(size=(len(captions), encoder.dim)).astype(np.float16)
    made = MemoryStore(header, clips, captions, embeddings, np.ones(len(captions), dtype=np.bool_))
    made.token_view = below
    return made


@pytest.fixture(scope="module")
def head(store: MemoryStore) -> FinetunedHead:
    torch.manual_seed(0)
    return new_finetuned_head(
        RetrievalHead(HEAD, scan="reference"), store, finetune="top:1", with_text=True
    )


def read(
    store: MemoryStore,
    head: RetrievalHead,
    group: ProcessGroup,
    places: Sequence[NDArray[np.intp]],
) -> list[HeadBatch]:
    """Copies, as the loader fills its memory anew."""
    selection = select_split(store, "train")
    ids_QC = token_ids_of(head, store, selection)
    batches = read_pair_batches(
        store, selection, places, device=CPU, token_ids_QC=ids_QC, group=group
    )
    return [batch.map(Tensor.clone) for batch in batches]


@pytest.mark.parametrize(
    ("size", "videos_at_once", "places"),
    [
        (2, 100, EVEN),
        (4, 100, FEW),
        pytest.param(2, 1, EVEN, marks=pytest.mark.slow),
        pytest.param(4, 1, FEW, marks=pytest.mark.slow),
    ],
)
def test_workers_gradients_of_both_towers_are_the_one_worker_s(
    size: int,
    videos_at_once: int,
    places: list[NDArray[np.intp]],
    store: MemoryStore,
    head: FinetunedHead,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def learn(group: ProcessGroup) -> tuple[float, dict[str, Tensor | None]]:
        own = copy.deepcopy(head)
        optimizer = HeadOptimizer(
            own, peak_lr=0.1, warmup=0.0, num_steps=1, weight_decay=0.0, max_grad_norm=1e9
        )
        optimizer.update = lambda step: None  # type: ignore[method-assign]
        learner = Learner(
            own,
            optimizer,
            duplicates="masked",
            videos_at_once=videos_at_once,
            precision="fp32",
            group=group,
        )
        batches = read(store, own, group, places)
        loss, _ = learner.learn(iter(batches), num_batches=len(batches))
        return loss, {name: parameter.grad for name, parameter in own.named_parameters()}

    loss, gradients = learn(ALONE)
    found = WorkerThreads(size, monkeypatch).run(learn)
    for its_loss, its in found:
        assert its_loss == pytest.approx(loss, rel=1e-5)
        for name, wanted in gradients.items():
            torch.testing.assert_close(its[name], wanted, rtol=1e-3, atol=1e-5, msg=name)
    for name, first in found[0][1].items():
        assert first is None or torch.equal(found[1][1][name], first)  # type: ignore[arg-type]


def test_workers_share_the_videos_and_captions_that_are_measured_on(
    store: MemoryStore, head: FinetunedHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = select_split(store, "train")
    num_texts: list[int] = []

    def embed(group: ProcessGroup) -> SplitEmbeddings:
        own = copy.deepcopy(head).eval()
        assert own.towers.text is not None
        own.towers.text.register_forward_hook(lambda _, ids, __: num_texts.append(len(ids[0])))
        return embed_selection(store, own, selection, group=group)

    wanted = embed(ALONE)
    num_texts.clear()
    for found in WorkerThreads(3, monkeypatch).run(embed):
        torch.testing.assert_close(found.text_QD, wanted.text_QD, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.video_VD, wanted.video_VD, atol=1e-5, rtol=1e-4)
    assert sorted(num_texts) == [3, 3, 4]
