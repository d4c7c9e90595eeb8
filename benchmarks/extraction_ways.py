"""Four ways from a folder of videos to features, for `bench_extract`: each is one function.

``muse`` is ``muse extract``. ``plain`` is what one writes by hand with PyAV, PIL and open_clip.
``pool`` is a process pool around muse's own decoder and encoder, without failures, receipts or
resumption. ``decode`` is that pool without an encoder: no engine can be faster. Pools are warm when
their time begins, as muse's is counted from its first video on (`SpeedReport.wall_seconds`).
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pool_decoding import clip_of, num_frames_of, plain_frames, with_path
from torch import Tensor

from muse.pipeline.encoders.base import (
    Encoder,
    as_float16,
    build_encoder,
    normalised_input,
    resolve_device,
)
from muse.pipeline.encoders.exact_resize import is_exact_on, resized_levels
from muse.pipeline.encoders.open_clip import OpenClipEncoder
from muse.pipeline.encoders.pil_resize import resize_of
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.progress import Progress
from muse.pipeline.records import Clip, Listing, VideoRef
from muse.pipeline.schedule import Workers, available_cpus
from muse.pipeline.speed.wording import speed_sentence

CLIPS_AHEAD = 8  # for each process of a pool: decoded and not yet encoded
Mark = tuple[float, int]
"""A moment in seconds, and the videos that are done by then."""
EncodeFrames = Callable[[NDArray[np.uint8]], NDArray[np.float16]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every way does."""

    videos: tuple[Path, ...]
    out: Path
    """A folder that is not there yet."""
    encoder: str
    engine: str
    """Of muse."""
    sampling: Sampling
    processes: int
    batch_videos: int
    """Videos a forward pass, in every way."""
    shard_size: int
    """Of muse."""
    view: str
    """Of muse."""


# -- muse ------------------------------------------------------------------------------------------


def by_muse(work: Work) -> dict[str, Any]:
    """The whole pipeline, from its first video to its last receipt."""
    refs = [VideoRef(video_id=path.stem, path=path) for path in work.videos]
    config = ExtractConfig(
        out=work.out,
        encoder=work.encoder,
        engine=work.engine,  # type: ignore[arg-type]
        sampling=work.sampling,
        batch_videos=work.batch_videos,
        shard_size=work.shard_size,
        views=(work.view,),
        finds_duplicates=False,  # the same file under many names is work here
        workers=Workers(num_decoders=work.processes),
    )
    listing = Listing(protocol="folder", videos=tuple(refs), captions=())
    marks: list[Mark] = []

    def mark(progress: Progress) -> None:
        if not marks or progress.num_committed > marks[-1][1]:
            marks.append((time.perf_counter(), progress.num_committed))

    summary = extract(config, listing, on_progress=mark)
    assert summary.speed is not None
    return {
        "marks": marks,
        "seconds": summary.speed.wall_seconds,
        "startup_seconds": summary.speed.startup_seconds,
        "frames": summary.speed.num_frames,
        "because": speed_sentence(summary.speed),
    }


# -- by hand ---------------------------------------------------------------------------------------


def by_plain(work: Work) -> dict[str, Any]:
    """Every frame up to the last wanted one decoded by PyAV, cropped by PIL, encoded eagerly."""
    encoder = build_encoder(work.encoder, device=resolve_device("auto"), precision="auto")
    assert isinstance(encoder, OpenClipEncoder), f"{work.encoder}: --plain is for open_clip"
    preprocessing = encoder.info.preprocessing
    decode = partial(plain_frames, sampling=work.sampling, preprocessing=preprocessing)
    return _timed_pool(work, decode, partial(_eager_tokens, encoder), encoder)


@torch.no_grad()
def _eager_tokens(encoder: OpenClipEncoder, frames_BHWC: NDArray[np.uint8]) -> NDArray[np.float16]:
    """(B, K, D) of open_clip's own modules, one kernel after the other."""
    visual, precision = encoder.model.visual, next(encoder.model.parameters())
    pixels = normalised_input(frames_BHWC, encoder.info.preprocessing, device=str(precision.device))
    outputs = visual.forward_intermediates(
        pixels.to(precision.dtype),
        indices=1,  # the last block
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    parts = outputs["image_intermediates_prefix"][0], outputs["image_intermediates"][0]
    tokens: Tensor = visual.ln_post(torch.cat(parts, dim=1)) @ visual.proj
    return as_float16(tokens, what="tokens")


# -- a pool around muse's parts --------------------------------------------------------------------


def by_pool(work: Work) -> dict[str, Any]:
    """Muse's decoder in a pool, its encoder here."""
    encoder = build_encoder(work.encoder, device=resolve_device("auto"), precision="auto")
    decode = partial(clip_of, task=_task_of(work, encoder))
    return _timed_pool(work, decode, partial(_muse_tokens, encoder), encoder)


def by_decode(work: Work) -> dict[str, Any]:
    """Muse's decoder in a pool, and nothing else."""
    encoder = build_encoder(work.encoder, device=resolve_device("auto"), precision="auto")
    decode = partial(num_frames_of, task=_task_of(work, encoder))
    with multiprocessing.get_context("spawn").Pool(work.processes) as pool:
        pool.map(decode, work.videos[: work.processes], chunksize=1)
        started = time.perf_counter()
        frames, marks = 0, []
        for found in pool.imap_unordered(decode, work.videos):
            frames += found
            marks.append((time.perf_counter(), len(marks) + 1))
        return {"seconds": time.perf_counter() - started, "frames": frames, "marks": marks}


def _task_of(work: Work, encoder: Encoder) -> dict[str, Any]:
    device, preprocessing = resolve_device("auto"), encoder.info.preprocessing
    return {
        "sampling": work.sampling,
        "preprocessing": preprocessing,
        "leaves_resize": device == "cuda" and is_exact_on(device, preprocessing),
    }


def _muse_tokens(encoder: Encoder, frames_BHWC: NDArray[np.uint8]) -> NDArray[np.float16]:
    return encoder.encode_frames(frames_BHWC, ("tokens",))["tokens"]


def inputs_of(clip: Clip | NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """(T', size, size, 3) the frames, resized on the GPU where they came unresized."""
    if not isinstance(clip, Clip):
        return clip
    if clip.unresized_from is None:
        return clip.frames_THWC
    resize = resize_of(*clip.unresized_from, preprocessing)
    levels = resized_levels(torch.from_numpy(clip.frames_THWC).cuda(), resize)
    inputs_THWC: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).cpu().numpy()
    return inputs_THWC


# -- what both pools share -------------------------------------------------------------------------


def _timed_pool(
    work: Work, decode: Callable[[Path], Any], encode: EncodeFrames, encoder: Encoder
) -> dict[str, Any]:
    """One ``.npy`` of (T', K, D) float16 a video; batches have one shape, as kernels like it."""
    torch.set_num_threads(available_cpus())
    preprocessing = encoder.info.preprocessing
    num_frames, size = work.sampling.num_frames, preprocessing.size
    pixels = np.zeros((work.batch_videos, num_frames, size, size, 3), np.uint8)
    work.out.mkdir()
    with multiprocessing.get_context("spawn").Pool(work.processes) as pool:
        pool.map(decode, work.videos[: work.processes], chunksize=1)
        encode(pixels.reshape(-1, size, size, 3))
        started, frames, done = time.perf_counter(), 0, 0
        marks: list[Mark] = []
        for batch in _batches(_decoded(pool, decode, work), work.batch_videos):
            inputs = [inputs_of(clip, preprocessing) for _, clip in batch]
            for place, input_THWC in enumerate(inputs):
                pixels[place, : len(input_THWC)] = input_THWC
            tokens = encode(pixels.reshape(-1, size, size, 3))
            tokens = tokens.reshape(work.batch_videos, num_frames, *tokens.shape[1:])
            for (path, _), input_THWC, tokens_TKD in zip(batch, inputs, tokens, strict=False):
                np.save(work.out / f"{path.stem}.npy", tokens_TKD[: len(input_THWC)])
                frames += len(input_THWC)
            done += len(batch)
            marks.append((time.perf_counter(), done))
        return {"seconds": time.perf_counter() - started, "frames": frames, "marks": marks}


def _decoded(pool: Any, decode: Callable[[Path], Any], work: Work) -> Iterator[tuple[Path, Any]]:
    """Clips as they come; no more are asked for than `CLIPS_AHEAD` allows."""
    free = threading.Semaphore(CLIPS_AHEAD * work.processes)

    def asked() -> Iterator[Path]:
        for path in work.videos:
            free.acquire()
            yield path

    for found in pool.imap_unordered(partial(with_path, decode=decode), asked()):
        free.release()
        yield found


def _batches(clips: Iterable[tuple[Path, Any]], size: int) -> Iterator[list[tuple[Path, Any]]]:
    batch = []
    for clip in clips:
        batch.append(clip)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


WAYS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "muse": by_muse,
    "plain": by_plain,
    "pool": by_pool,
    "decode": by_decode,
}


def tokens_of(way: str, out: Path, stems: Sequence[str]) -> dict[str, NDArray[np.float16]]:
    """(T', K, D) of some videos, as a way left them."""
    if way != "muse":
        return {stem: np.load(out / f"{stem}.npy") for stem in stems}
    from muse.pipeline.store_zarr import ZarrStore

    store = ZarrStore.open(out)
    clips = {stem: store.read_clip(store.video_ids.index(stem)) for stem in stems}
    return {stem: clip.tokens_TKD[clip.valid_T] for stem, clip in clips.items()}
