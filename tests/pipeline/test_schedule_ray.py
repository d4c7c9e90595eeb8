"""The Ray engine on a local Ray that is started once for all tests of this file."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muse.errors import EncoderError, UsageError
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding.decoder import DecodeLimits
from muse.pipeline.extract import ExtractConfig, ExtractSummary, extract
from muse.pipeline.header import Sampling
from muse.pipeline.schedule import Workers
from muse.pipeline.store import open_store
from muse.pipeline.store_zarr import ZarrStore

pytestmark = [
    pytest.mark.slow,
    # Of ray itself, on what it finds in the environment.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_ray() -> Iterator[None]:
    """Engines join a Ray that runs and leave it running; starting one takes seconds."""
    ray = pytest.importorskip("ray")
    from muse.pipeline.schedule_ray import _connect

    assert _connect(None, num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture
def run(tiny_clip_folder: Path, tmp_path: Path) -> Callable[..., ExtractSummary]:
    def extracted(
        folder: Path,
        *,
        name: str,
        engine: str,
        timeout: float = 100,
        table: str = "video,caption\na,a song\ngone,a dog\nf,a cat\n",
        text_length: int | None = None,
        thumbnails: bool = False,
        views: tuple[str, ...] = ("tokens",),
        profile: Path | None = None,
    ) -> ExtractSummary:
        captions = tmp_path / "captions.csv"
        captions.write_text(table, encoding="utf-8")
        config = ExtractConfig(
            out=tmp_path / name,
            encoder=f"openclip:local-dir:{tiny_clip_folder}",
            engine=engine,  # type: ignore[arg-type]
            sampling=Sampling(num_frames=2),
            text_length=text_length,
            thumbnails=thumbnails,
            views=views,
            shard_size=3,
            batch_videos=2,
            workers=Workers(num_decoders=2, limits=DecodeLimits(timeout_seconds=timeout)),
        )
        return extract(config, list_folder(folder, captions), profile=profile)

    return extracted


def test_both_engines_write_the_same_bytes(
    run: Callable[..., ExtractSummary],
    video_folder: Path,
    tmp_path: Path,
    same_store: Callable[[Path, Path], bool],
    bytes_of: Callable[[Path], dict[str, bytes]],
) -> None:
    views = ("tokens", "frames:uint8", "frames:jpeg")
    run(video_folder, name="ray", engine="ray", thumbnails=True, views=views)
    run(video_folder, name="local", engine="local", thumbnails=True, views=views)
    assert same_store(tmp_path / "ray", tmp_path / "local")
    headers = [ZarrStore.open(tmp_path / name).header for name in ("ray", "local")]
    assert headers[0] == headers[1]
    assert headers[0].parity is not None
    for kind in ("thumbnails", "frames"):
        pictures = [bytes_of(tmp_path / name / kind) for name in ("ray", "local")]
        assert pictures[0] == pictures[1]
        assert len(pictures[0]) == 2  # the third shard has a missing video alone


def test_both_engines_measure_the_same_work(
    run: Callable[..., ExtractSummary], video_folder: Path
) -> None:
    did = {}
    for engine in ("ray", "local"):
        speed = run(video_folder, name=engine, engine=engine).speed
        assert speed is not None
        did[engine] = {s.stage: (s.num_workers, s.num_items, s.num_frames) for s in speed.stages}
        decode = speed.of("decode")
        assert decode is not None
        assert 0 < decode.share <= 1
        assert decode.cpu_seconds is not None
    assert did["ray"] == did["local"]
    # Of the missing video no file is read; of the first one, of a second, one frame.
    assert did["ray"]["decode"] == (2, 6, 9)


def test_a_trace_of_a_cluster_has_a_row_for_each_process(
    run: Callable[..., ExtractSummary], video_folder: Path, tmp_path: Path
) -> None:
    run(video_folder, name="store", engine="ray", profile=tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    rows = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {row.split()[0] for row in rows} == {"encoder", "writer", "decoder"}
    assert {event["name"] for event in events if event["ph"] == "X"} >= {
        "decode",
        "encode",
        "write",
    }


WINDOWS = """\
video,caption,start,end
a,a song that is long,0.25,0.75
a,a song,0.5,9
b,a dog,50,60
f,a cat,,
"""


def test_both_engines_write_the_same_bytes_of_parts_of_videos(
    run: Callable[..., ExtractSummary],
    video_folder: Path,
    tmp_path: Path,
    same_store: Callable[[Path, Path], bool],
) -> None:
    for engine in ("ray", "local"):
        run(video_folder, name=engine, engine=engine, table=WINDOWS, text_length=4)
    assert same_store(tmp_path / "ray", tmp_path / "local")
    store = ZarrStore.open(tmp_path / "ray")
    begins = {
        video_id: round(float(store.read_clip(row).pts_seconds_T[0]), 6)
        for row, video_id in enumerate(store.video_ids)
        if store.has_features_N[row]
    }
    # Ten frames a second, from 0 s on.
    assert begins == {"a.mp4#t=0.25,0.75": 0.3, "a.mp4#t=0.5,9": 0.5} | dict.fromkeys(
        ("d.mp4", "e.mp4", "f.mp4"), 0.0
    )
    reasons = {failure.video_id: failure.reason for failure in store.failures}
    assert reasons == {"b.mp4#t=50,60": "empty_window", "c.mp4": "not_a_video"}


def test_a_duplicate_waits_for_its_original_and_is_decoded_once(
    run: Callable[..., ExtractSummary], make_video: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    for number, name in enumerate(("a", "b", "d", "e")):
        make_video(folder / f"{name}.mp4", num_frames=10 + number)
    shutil.copy(folder / "a.mp4", folder / "f.mp4")
    assert run(folder, name="store", engine="ray").counts.ok == 5
    store = ZarrStore.open(tmp_path / "store")
    original, copy = (store.read_clip(store.video_ids.index(i)) for i in ("a.mp4", "f.mp4"))
    assert original.tokens_TKD.tobytes() == copy.tokens_TKD.tobytes()
    assert store.duplicate_of[store.video_ids.index("f.mp4")] == 0


def test_a_decoder_that_takes_too_long_costs_only_its_video(
    run: Callable[..., ExtractSummary],
    make_video: Callable[..., Path],
    tmp_path: Path,
) -> None:
    make_video(tmp_path / "videos" / "a.mp4")
    run(tmp_path / "videos", name="store", engine="ray", timeout=1e-6)
    reasons = {
        failure.video_id: failure.reason for failure in open_store(tmp_path / "store").failures
    }
    assert reasons["a.mp4"] == "timeout"


def test_videos_may_be_named_by_a_relative_path(
    run: Callable[..., ExtractSummary], video_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(video_folder.parent)
    assert run(Path(video_folder.name), name="store", engine="ray").counts.ok == 5


def test_an_encoder_that_can_t_be_built_is_the_same_error_as_elsewhere(
    video_folder: Path, tmp_path: Path
) -> None:
    config = ExtractConfig(out=tmp_path / "store", encoder="openclip:no-such/tag")
    with pytest.raises(EncoderError, match="open_clip has no model 'no-such'"):
        extract(config, list_folder(video_folder, None))


def test_a_gpu_that_this_ray_does_not_have_is_refused(video_folder: Path, tmp_path: Path) -> None:
    import ray

    if ray.cluster_resources().get("GPU"):
        pytest.skip("this Ray has a GPU")
    config = ExtractConfig(out=tmp_path / "store", encoder="conse", device="cuda")
    with pytest.raises(EncoderError, match=r"this Ray has no GPU\. Use --device cpu"):
        extract(config, list_folder(video_folder, None))


def test_a_cluster_that_can_t_be_reached_is_refused_by_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from muse.pipeline import schedule_ray

    def unreachable(**settings: object) -> None:
        raise ConnectionError("no answer\nfrom there")

    monkeypatch.setattr(schedule_ray.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(schedule_ray.ray, "init", unreachable)
    with pytest.raises(UsageError, match=r"\ARay at 10\.0\.0\.1:6379 [^\n]*--ray-address[^\n]*\Z"):
        schedule_ray._connect("10.0.0.1:6379", num_cpus=None)
