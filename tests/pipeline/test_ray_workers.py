"""An encoding actor's two threads, without Ray: shards are encoded and written side by side."""

import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from muse.errors import StoreError
from muse.pipeline import shards
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.plan import CaptionShard
from muse.pipeline.ray_workers import EncodeActor
from muse.pipeline.speed.spans import Measured

SHARDS: list[Any] = list(range(6))  # the stand-in below does not look into them
DELAY = 0.05  # of encoding a shard, and of writing it: seconds
SETTING = EncoderSetting(spec="none", device="cpu", precision="fp32", num_threads=1)


class SlowEncoder:
    """Takes its time, and notes which thread did what."""

    encoding: list[int]
    written: list[Any]

    def __init__(self, setting: EncoderSetting, *, worker: str) -> None:
        self.encoding, self.written = [], []
        self._writing = 0

    def open_store(self, location: str) -> None:
        if location == "gone":
            raise StoreError("gone: no store")

    def encode_captions(self, shard: Any) -> Any:
        self.encoding.append(threading.get_ident())
        time.sleep(DELAY)
        return shard

    def write(self, encoded: Any) -> tuple[Measured, Any]:
        self._writing += 1
        time.sleep(DELAY)
        assert self._writing == 1, "two shards are written at once"
        self._writing -= 1
        self.written.append(encoded)
        if encoded == "small GPU":
            logging.getLogger("muse.pipeline.encoders.batches").warning("does not fit into %s", 7)
        return Measured(spans=()), encoded


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Iterator[EncodeActor]:
    monkeypatch.setattr(shards, "ShardEncoder", SlowEncoder)
    actor = EncodeActor(SETTING)
    yield actor
    logging.getLogger("muse").removeHandler(actor._remarks)  # its process ends, elsewhere


def test_a_shard_is_written_while_the_next_is_encoded_by_one_thread(actor: EncodeActor) -> None:
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as calls:  # as many as Ray makes at a time
        found: list[Any] = list(calls.map(lambda s: actor.encode_captions("store", s)[1], SHARDS))
    elapsed_seconds = time.perf_counter() - started
    assert found == SHARDS
    encoder: Any = actor._shard_encoder
    assert sorted(encoder.written) == SHARDS
    assert (len(encoder.encoding), len(set(encoder.encoding))) == (6, 1)
    assert 6 * DELAY < elapsed_seconds < 11 * DELAY  # twelve delays in turns


def test_a_warning_comes_with_the_shard_that_it_was_given_for(actor: EncodeActor) -> None:
    remarks = [
        actor.encode_captions("store", cast("CaptionShard", shard))[0].remarks
        for shard in ("large GPU", "small GPU", "large GPU")
    ]
    assert [len(each) for each in remarks] == [0, 1, 0]
    assert re.fullmatch(r"encoder .+:\d+: does not fit into 7", remarks[1][0])


def test_an_error_of_the_encoder_s_thread_reaches_the_caller(actor: EncodeActor) -> None:
    with pytest.raises(StoreError, match="gone: no store"):
        actor.encode_captions("gone", 0)  # type: ignore[arg-type]
