"""The local engine: decoders in processes of their own, the encoder in this one, and no Ray."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from unruly import crash_on_b_and_hang_on_e

from muse.errors import EncoderError
from muse.pipeline import shards
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding import decoder
from muse.pipeline.decoding.decoder import DecodeLimits
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Sampling
from muse.pipeline.schedule import Workers, shards_in_flight
from muse.pipeline.schedule_local import LocalEngine
from muse.pipeline.store import open_store


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    setting = EncoderSetting(spec="no-such", device="cuda", precision="auto", num_threads=1)
    with pytest.raises(EncoderError, match="torch sees no CUDA device"):
        LocalEngine(setting, Workers())


@pytest.mark.parametrize(
    ("shard_size", "num_decoders", "num_encoders", "num_shards"),
    [
        (64, 2, 1, 2),  # one is encoded, and 64 videos are there for two decoders
        (64, 16, 1, 5),  # of four shards each of the 16 has sixteen videos
        (64, 128, 8, 5),  # of eight encoders' four
        (1, 4, 1, 65),
        (0, 1, 1, 17),  # of copies alone: nothing to decode
    ],
)
def test_every_decoder_has_sixteen_videos_while_one_shard_is_encoded(
    shard_size: int, num_decoders: int, num_encoders: int, num_shards: int
) -> None:
    found = shards_in_flight(shard_size, num_decoders=num_decoders, num_encoders=num_encoders)
    assert found == num_shards


@pytest.mark.slow
def test_a_video_whose_decoder_crashes_or_hangs_costs_only_itself(
    video_folder: Path,
    plain_encoder: Callable[..., Encoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "build_encoder", plain_encoder)
    monkeypatch.setattr(decoder, "attempt", crash_on_b_and_hang_on_e)
    config = ExtractConfig(
        out=tmp_path / "store",
        encoder="plain",
        engine="local",
        sampling=Sampling(num_frames=2),
        workers=Workers(num_decoders=2, limits=DecodeLimits(timeout_seconds=2)),
    )
    extract(config, list_folder(video_folder, None))
    store = open_store(config.out)
    reasons = {failure.video_id: failure.reason for failure in store.failures}
    assert reasons == {"b.mp4": "crashed", "c.mp4": "not_a_video", "e.mp4": "timeout"}
    assert store.has_features_N.tolist() == [True, False, False, True, False, True]


@pytest.mark.slow
def test_the_local_engine_loads_no_ray(
    video_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    script = f"""
import sys
from collections.abc import Callable
from pathlib import Path
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.extract import ExtractConfig, extract
config = ExtractConfig(
    out=Path({str(tmp_path / "store")!r}),
    encoder="openclip:local-dir:{tiny_clip_folder}",
    engine="local",
)
assert extract(config, list_folder(Path({str(video_folder)!r}), None)).counts.ok == 5
print("ray" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout.strip() == "False"
