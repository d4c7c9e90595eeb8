"""Who decodes a run, by what decoders that are stood in for give and take."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Runs, WithoutProcess

from muse.errors import UsageError, WorkerError
from muse.pipeline import schedule_local, shards
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding import decoder_choice
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, decode_failure
from muse.pipeline.decoding.decoder_choice import DecoderChoice, chosen_decoder, faster_choice
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, DecoderName, Failure, VideoRef
from muse.pipeline.schedule import Workers

SOFTWARE = DecoderChoice(decoder="cpu", num_decoders=4)


# -- rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sessions", "decoder", "processes"),
    [
        ({1: 9.0, 2: 11.0}, "cpu", 4),  # four in software make 12 a second
        ({1: 9.0, 2: 13.0, 4: 12.5}, "nvdec", 2),
        ({1: 12.0}, "cpu", 4),  # no faster
    ],
)
def test_nvdec_has_to_beat_all_decoders_in_software(
    sessions: dict[int, float], decoder: str, processes: int
) -> None:
    choice = faster_choice(SOFTWARE, one_decoder=3.0, sessions=sessions, num_videos=4)
    assert (choice.decoder, choice.num_decoders) == (decoder, processes)


def test_one_line_says_what_was_measured_and_chosen() -> None:
    choice = faster_choice(SOFTWARE, one_decoder=3.0, sessions={1: 9.0, 2: 13.0}, num_videos=4)
    assert choice.because == (
        "decoder nvdec: of 4 videos NVDEC decodes 13 a second in 2 processes, software 12 "
        "(4 times 3)"
    )


# -- a trial ---------------------------------------------------------------------------------------


@dataclass
class Machine:
    """Decoders that take so long for a video, and NVDEC's that may give other frames."""

    seconds: dict[DecoderName, float] = field(default_factory=lambda: {"cpu": 0.02, "nvdec": 0.001})
    short_side: int = 1080
    takes: Sequence[str] = ("a", "b", "c", "d", "e")
    different: Sequence[str] = ()
    broken: Sequence[str] = ()
    starts: bool = True
    opened: list[DecoderName] = field(default_factory=list)
    closed: list[DecoderName] = field(default_factory=list)

    def open(self, name: DecoderName, limits: DecodeLimits) -> "StandIn":
        self.opened.append(name)
        return StandIn(self, name)


class StandIn(WithoutProcess):
    def __init__(self, machine: Machine, name: DecoderName) -> None:
        self._machine, self._name = machine, name

    def start(self) -> None:
        if self._name == "nvdec" and not self._machine.starts:
            raise WorkerError("the driver crashes")

    def close(self) -> None:
        self._machine.closed.append(self._name)

    def __call__(self, task: DecodeTask) -> Clip | Failure:
        machine, video_id = self._machine, task.video.video_id
        if video_id in machine.broken:
            return decode_failure(task.video, reason="not_a_video", message="nothing to see")
        on_gpu = self._name == "nvdec" and video_id in machine.takes
        time.sleep(machine.seconds["nvdec" if on_gpu else "cpu"])
        frames_THWC = np.zeros((2, 4, 4, 3), np.uint8)
        frames_THWC[1, 3, 3, 2] = on_gpu and video_id in machine.different  # the last bit of all
        return Clip(
            video_id=video_id,
            frames_THWC=frames_THWC,
            pts_seconds_T=np.array([0.0, 0.5]),
            short_side=machine.short_side,
            decoder="nvdec" if on_gpu else "cpu",
        )


@pytest.fixture(autouse=True)
def _short_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_choice, "_RATE_SECONDS", 0.05)


@pytest.fixture
def chosen(preprocessing: Preprocessing) -> Callable[..., DecoderChoice]:
    def choose(machine: Machine, asked: str = "auto", **settings: Any) -> DecoderChoice:
        tasks = [
            DecodeTask(
                video=VideoRef(video_id=name, path=Path(name)),
                sampling=Sampling(),
                preprocessing=preprocessing,
            )
            for name in "abcde"
        ]
        usual: dict[str, Any] = {"num_decoders": None, "num_cores": 2, "has_gpu": True}
        choice = chosen_decoder(
            asked,  # type: ignore[arg-type]
            tasks,
            limits=DecodeLimits(),
            opened=machine.open,
            **{**usual, **settings},
        )
        assert sorted(machine.closed) == sorted(machine.opened)
        return choice

    return choose


Chosen = Callable[..., DecoderChoice]


def test_nothing_is_tried_where_software_was_asked_for(chosen: Chosen) -> None:
    machine = Machine()
    assert chosen(machine, "cpu") == DecoderChoice(decoder="cpu", num_decoders=2)
    assert not machine.opened


def test_nothing_is_measured_without_a_gpu(chosen: Chosen) -> None:
    machine = Machine()
    assert chosen(machine, has_gpu=False).because == "decoder cpu: there is no CUDA device"
    assert not machine.opened


def test_the_faster_one_is_taken(chosen: Chosen) -> None:
    assert chosen(Machine()).decoder == "nvdec"
    slow = chosen(Machine(seconds={"cpu": 0.001, "nvdec": 0.05}))
    assert (slow.decoder, slow.num_decoders) == ("cpu", 2)


def test_small_frames_and_many_decoders_are_not_worth_a_measurement(chosen: Chosen) -> None:
    machine = Machine(short_side=1079)
    choice = chosen(machine, num_cores=9)
    assert (choice.decoder, choice.num_decoders) == ("cpu", 9)
    assert "9 decoders, and frames of 1079 pixels" in choice.because
    assert machine.opened == ["cpu"]


@pytest.mark.parametrize(("short_side", "num_cores"), [(1080, 64), (240, 8)])
def test_large_frames_or_few_decoders_are(chosen: Chosen, short_side: int, num_cores: int) -> None:
    machine = Machine(short_side=short_side)
    assert "NVDEC decodes" in chosen(machine, num_cores=num_cores).because
    assert "nvdec" in machine.opened


@pytest.mark.parametrize("asked", ["auto", "nvdec"])
def test_a_bit_that_differs_leaves_all_to_software_and_warns(
    chosen: Chosen, caplog: pytest.LogCaptureFixture, asked: str
) -> None:
    choice = chosen(Machine(different=["c"]), asked)
    assert (choice.decoder, choice.num_decoders) == ("cpu", 2)
    assert "NVDEC gave other frames of 1 of 4 videos (first: 'c')" in choice.because
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", choice.because)
    ]


@pytest.mark.parametrize("asked", ["auto", "nvdec"])
def test_videos_that_nvdec_does_not_take_are_software_s(
    chosen: Chosen, caplog: pytest.LogCaptureFixture, asked: str
) -> None:
    choice = chosen(Machine(takes=()), asked)
    assert choice.decoder == "cpu"
    assert "NVDEC takes none of the first 4 videos" in choice.because
    # Who asked for it is told; who asked for what is best has that.
    assert bool(caplog.records) == (asked == "nvdec")


def test_some_that_it_takes_are_enough(chosen: Chosen) -> None:
    choice = chosen(Machine(takes=("d",)), "nvdec")
    assert choice.decoder == "nvdec"
    assert "it takes 1 of the first 4 videos, and gives software's bits" in choice.because


def test_a_process_that_does_not_start_leaves_all_to_software(chosen: Chosen) -> None:
    choice = chosen(Machine(starts=False), "nvdec")
    assert choice.because == "decoder cpu: NVDEC's process does not start: the driver crashes"


def test_broken_videos_tell_nothing(chosen: Chosen) -> None:
    assert "takes 2 of the first 2" in chosen(Machine(broken=("a", "b")), "nvdec").because
    choice = chosen(Machine(broken=tuple("abcde")), "nvdec")
    assert choice.because == "decoder cpu: none of the first 4 videos decodes in time"


@pytest.mark.parametrize(
    ("num_decoders", "num_cores", "processes"), [(None, 2, 4), (None, 16, 8), (3, 16, 3)]
)
def test_processes_beside_a_gpu_are_few(
    chosen: Chosen, num_decoders: int | None, num_cores: int, processes: int
) -> None:
    choice = chosen(Machine(), "nvdec", num_decoders=num_decoders, num_cores=num_cores)
    assert choice == DecoderChoice(
        decoder="nvdec",
        num_decoders=processes,
        because="decoder nvdec: it takes 4 of the first 4 videos, and gives software's bits",
    )


def test_no_more_processes_are_measured_than_bring_something(
    chosen: Chosen, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def rate(trial: object, name: DecoderName, number: int) -> float:
        measured.append((name, number))
        return 0.1 if name == "cpu" else float(min(number, 2))  # a GPU of two engines

    monkeypatch.setattr(decoder_choice._Trial, "rate", rate)
    choice = chosen(Machine(), num_cores=8)
    assert measured == [("cpu", 1), ("nvdec", 1), ("nvdec", 2), ("nvdec", 4)]
    assert (choice.decoder, choice.num_decoders) == ("nvdec", 2)


def test_another_decoder_is_refused() -> None:
    with pytest.raises(UsageError, match=r"decoder 'gpu': choose one of cpu, nvdec, auto"):
        Workers(decoder="gpu")  # type: ignore[arg-type]


# -- a run -----------------------------------------------------------------------------------------


@pytest.fixture
def on_gpu(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of videos that went to NVDEC, of which three processes were chosen."""
    taken: list[str] = []
    in_software = schedule_local.IsolatedDecoder

    class OnGpu(in_software):  # type: ignore[misc, valid-type]
        def __call__(self, task: DecodeTask) -> Clip | Failure:
            taken.append(task.video.video_id)
            return super().__call__(task)

    def choose(asked: str, tasks: Sequence[DecodeTask], **rest: Any) -> DecoderChoice:
        assert asked == "auto"
        assert [task.video.video_id for task in tasks] == ["a.mp4", "b.mp4"]
        return DecoderChoice(decoder="nvdec", num_decoders=3, because="it was quick")

    monkeypatch.setattr(schedule_local, "GpuDecoder", OnGpu)
    monkeypatch.setattr(schedule_local, "chosen_decoder", choose)
    return taken


def test_a_run_goes_to_the_decoder_that_was_chosen_and_says_so(
    runs: Runs, on_gpu: list[str]
) -> None:
    runs.put(a=1, b=2)
    summary = runs.run(workers=Workers(decoder="auto"))
    assert sorted(on_gpu) == ["a.mp4", "b.mp4"]
    assert summary.speed is not None
    assert summary.speed.workforce.num_decoders == 3
    record = json.loads((runs.out / "run.json").read_text(encoding="utf-8"))
    assert record["decoder"] == {"name": "nvdec", "processes": 3, "because": "it was quick"}


@pytest.mark.slow
def test_without_a_gpu_a_run_is_that_of_software(
    video_folder: Path,
    plain_encoder: Callable[..., Encoder],
    same_store: Callable[[Path, Path], bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # libav opens none, also where there is one
    monkeypatch.setattr(shards, "build_encoder", plain_encoder)
    for name in ("cpu", "nvdec"):
        config = ExtractConfig(
            out=tmp_path / name,
            encoder="plain",
            engine="local",
            device="cpu",
            sampling=Sampling(num_frames=3),
            workers=Workers(num_decoders=2, decoder=name),  # type: ignore[arg-type]
        )
        extract(config, list_folder(video_folder, None))
    assert same_store(tmp_path / "cpu", tmp_path / "nvdec")
    (record,) = (record for record in caplog.records if "decoder_choice" in record.name)
    assert record.message.startswith("decoder cpu: NVDEC takes none of the first 3 videos")


def test_with_ray_gpus_are_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    from muse.pipeline import schedule_ray

    monkeypatch.setattr(schedule_ray, "_connect", None)  # not even asked
    setting = EncoderSetting(spec="no-such", device="cpu", precision="auto", num_threads=1)
    with pytest.raises(UsageError, match="--decoder nvdec needs --engine local"):
        schedule_ray.RayEngine(setting, Workers(decoder="nvdec"))
