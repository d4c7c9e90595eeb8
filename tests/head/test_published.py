"""A checkpoint under the published code's names, made here: no such file was ever released."""

import dataclasses
from pathlib import Path

import pytest
import torch
from memory_store import DIM, MemoryStore, make_store
from torch import Tensor

from muse.errors import CheckpointError, IncompatibleStoreError
from muse.head.checkpoint import load_head
from muse.head.head_config import HeadConfig, head_of_mode
from muse.head.model import RetrievalHead
from muse.head.published import import_published, our_name

# As training_log_r1_44.8.txt lists the first block's.
SCANS = ("conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias")
LOGGED = (
    *("mamba.A_log", "mamba.D", "mamba.A_b_log", "mamba.D_b"),
    *("mamba.in_proj.weight", "mamba.out_proj.weight"),
    *(f"mamba.{name}" for name in SCANS),
    *(f"mamba.{name.replace('.', '_b.')}" for name in SCANS),
    *("layer_norm1.weight", "layer_norm1.bias", "temporal_fc.weight", "temporal_fc.bias"),
)


@pytest.fixture
def store() -> MemoryStore:
    return make_store(num_videos=4)


def shape_of(store: MemoryStore, **changes) -> HeadConfig:
    """A published head, but small."""
    return dataclasses.replace(head_of_mode("release", store.header), depth=2, **changes)


def published(head: RetrievalHead, *, prefix: str = "") -> dict[str, Tensor]:
    """The head's weights as that code would have saved them, beside some of CLIP's."""
    saved = {"clip.logit_scale": head.logit_scale.detach(), "clip.proj": torch.zeros(2)}
    for name, value in head.state_dict().items():
        if name.startswith("aggregator.blocks"):
            name = name.replace("aggregator.blocks", "MS_mamba")
            saved[name.replace(".norm.", ".layer_norm1.").replace(".gate.", ".temporal_fc.")] = (
                value
            )
    return {prefix + name: value for name, value in saved.items()}


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    torch.save(weights, path)
    return path


def test_every_name_of_the_published_log_has_its_place_in_a_block() -> None:
    block = RetrievalHead(HeadConfig(dim=16, depth=1, factors=())).aggregator.blocks[0]
    ours = {our_name(f"MS_mamba.0.{name}") for name in LOGGED}
    assert ours == {f"aggregator.blocks.0.{name}" for name in block.state_dict()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("mixer", ["bimamba-v2", "bimamba-v1", "mamba"])
def test_an_imported_head_embeds_as_the_one_that_was_saved(
    store: MemoryStore, tmp_path: Path, mixer: str, prefix: str
) -> None:
    torch.manual_seed(42)  # the pyramid's
    head = RetrievalHead(shape_of(store, mixer=mixer, d_state=8, expand=2)).eval()
    file = saved(tmp_path / "pytorch_model.bin.1", published(head, prefix=prefix))
    found = import_published(file, store, tmp_path / "run", seed=42)
    assert (found.head.mixer, found.head.d_state, found.head.expand) == (mixer, 8, 2)
    assert (found.head.depth, found.num_ignored, found.has_logit_scale) == (2, 1, True)
    loaded = load_head(tmp_path / "run", store)
    tokens_BTKD, valid_BT = torch.randn(2, 3, 5, DIM), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    assert torch.equal(
        loaded.embed_videos(tokens_BTKD, valid_BT), head.embed_videos(tokens_BTKD, valid_BT)
    )


def test_another_seed_is_another_pyramid(store: MemoryStore, tmp_path: Path) -> None:
    file = saved(tmp_path / "weights", published(RetrievalHead(shape_of(store))))
    for seed in (1, 2):
        import_published(file, store, tmp_path / f"{seed}", seed=seed)
    one, other = (load_head(tmp_path / f"{seed}", store).state_dict() for seed in (1, 2))
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        name for name in one if "pyramid" in name and "norm" not in name
    }


def test_a_head_of_another_width_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    head = RetrievalHead(dataclasses.replace(shape_of(store), dim=32))
    file = saved(tmp_path / "weights", published(head))
    with pytest.raises(IncompatibleStoreError, match=f"width 32, .* tokens have {DIM}"):
        import_published(file, store, tmp_path / "run")


def test_what_is_no_such_checkpoint_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text: can't be read as a state dict"):
        import_published(tmp_path / "text", store, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"no MUSE head in it"):
        import_published(saved(tmp_path / "clip", {"a": torch.ones(1)}), store, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"a Tensor, expected names and tensors"):
        import_published(saved(tmp_path / "one", torch.ones(1)), store, tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_tensor_of_another_shape_is_named(store: MemoryStore, tmp_path: Path) -> None:
    weights = published(RetrievalHead(shape_of(store)))
    weights["MS_mamba.1.temporal_fc.weight"] = torch.zeros(3, 3)
    with pytest.raises(CheckpointError, match=r"blocks.1.gate.weight is \(3, 3\)"):
        import_published(saved(tmp_path / "weights", weights), store, tmp_path / "run")


def test_half_a_checkpoint_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    weights = published(RetrievalHead(shape_of(store)))
    del weights["MS_mamba.0.temporal_fc.weight"]
    with pytest.raises(CheckpointError, match=r"blocks.0.gate.weight is missing"):
        import_published(saved(tmp_path / "weights", weights), store, tmp_path / "run")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"empty: can't be read as a state dict"):
        import_published(tmp_path / "empty", store, tmp_path / "run")


def test_a_folder_in_use_is_left_alone(store: MemoryStore, tmp_path: Path) -> None:
    file = saved(tmp_path / "weights", published(RetrievalHead(shape_of(store))))
    import_published(file, store, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"not an empty folder"):
        import_published(file, store, tmp_path / "run")
