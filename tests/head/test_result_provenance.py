"""Where a number comes from: hashes that follow what they are of, and what is missing by name."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from memory_store import DIM, make_store

from muse.head.data import select_split
from muse.head.head_config import HeadConfig
from muse.head.provenance import head_provenance, split_provenance, store_provenance
from muse.head.train import train
from muse.head.train_config import TrainConfig
from muse.pipeline.records import Failure


def sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def test_a_store_is_told_by_its_hashes_and_its_header_without_what_they_cover() -> None:
    store = make_store(num_videos=3)
    found = store_provenance(store)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, default=str))
    assert (found["location"], found["root_sha256"]) == (store.location, store.root_sha256)
    assert found["encoder"]["weights_sha256"] == "0" * 64
    assert found["encoder"]["precision"] == "fp32"
    assert found["encoder"]["preprocessing"]["interpolation"] == "bicubic"
    assert {"sampling", "format_version", "fingerprint", "protocol", "view"} <= set(found)
    assert not {"golden", "files"} & set(found)


def test_a_split_is_told_by_its_ids_and_texts() -> None:
    store = make_store(num_videos=6, num_test_videos=3, captions_per_video=2)
    found = split_provenance(store, select_split(store, "test"))
    assert found["video_ids_sha256"] == sha256(["video3", "video4", "video5"])
    captions = [[f"video{row}", f"{row}.{n}", "test"] for row in (3, 4, 5) for n in range(2)]
    assert found["captions_sha256"] == found["listed_captions_sha256"] == sha256(captions)
    assert found["missing_videos"] == {
        "count": 0, "by_reason": {}, "ids_sha256": sha256([]), "first": [],
    }  # fmt: skip


def test_missing_videos_are_counted_by_reason_and_named() -> None:
    store = make_store(num_videos=6, captions_per_video=1, missing_videos=[1, 4])
    failure = Failure(video_id="video1", path="", stage="decode", reason="corrupt", message="")
    store.failures = [failure]
    store.has_embedding_Q = np.arange(6) != 2
    found = split_provenance(store, select_split(store, "train"))
    assert found["missing_videos"]["count"] == 3
    assert found["missing_videos"]["by_reason"] == {
        "corrupt": 1, "no caption embedded": 1, "pending": 1,
    }  # fmt: skip
    assert found["missing_videos"]["first"][0] == {"video_id": "video1", "reason": "corrupt"}
    assert found["missing_videos"]["ids_sha256"] == sha256(["video1", "video2", "video4"])
    assert (found["num_videos"], found["num_missing_captions"]) == (3, 3)
    assert found["captions_sha256"] != found["listed_captions_sha256"]


def test_of_mean_pooling_there_is_only_the_name() -> None:
    assert head_provenance("mean-pool") == {"name": "mean-pool"}


@pytest.mark.slow
def test_a_run_is_told_by_its_weights_settings_and_training_store(tmp_path: Path) -> None:
    store, run = make_store(num_videos=8, num_test_videos=2), tmp_path / "run"
    config = TrainConfig(epochs=2, batch_size=4, select_on="test", device="cpu")
    head = HeadConfig(dim=DIM, depth=1)
    train(store, run, config=config, head=head, command=("muse", "train-head"))
    found = head_provenance(str(run))
    assert json.loads(json.dumps(found)) == found
    weights = (run / "head.safetensors").read_bytes()
    assert found["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert found["selection"]["split"] == "test"
    chosen = found["selection"]["chosen_epoch"]
    assert found["step"] == found["selection"]["chosen_step"] == chosen * 3  # 12 pairs by four
    assert found["config"]["train"]["epochs"] == 2
    assert found["config"]["head"]["depth"] == 1
    assert found["config"]["command"] == ["muse", "train-head"]
    assert found["trained_on"]["root_sha256"] == store.root_sha256
    assert (found["trained_on"]["split"], found["trained_on"]["num_videos"]) == ("train", 6)
