"""Runs of ``extract`` in processes of their own, to be disturbed and killed.

A driver is forked from a server that has imported everything already, so it starts at once; its
encoder needs no weights and its decoder takes its time, so that a kill meets it at work. Knows
nothing of what a test expects.
"""

import functools
import multiprocessing
import os
import random
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from own_reference import reference_by_itself
from torch import Tensor

from muse.pipeline.decoding.decoder import DecodeTask, attempt
from muse.pipeline.encoders.reference import Reference
from muse.pipeline.header import EncoderInfo, Preprocessing, Sampling
from muse.pipeline.records import Caption, Clip, Failure, Listing, VideoRef

DECODE_SECONDS = 0.04
SLOW_DECODE_SECONDS = 2.0
SLOW_UNTIL = "CHAOS_SLOW_UNTIL"  # of the environment: the file that ends slow decoding
ENCODE_SECONDS = 0.03
SHARD_SIZE = 3


class PatientEncoder:
    """An encoder without weights that takes as long as one with: colours, and letters of a text."""

    def __init__(self, info: EncoderInfo) -> None:
        self.info = info

    def encode_frames(
        self, frames_BHWC: NDArray[np.uint8], views: Sequence[str] = ("tokens",)
    ) -> dict[str, NDArray[np.float16]]:
        time.sleep(ENCODE_SECONDS)
        colours_BC = frames_BHWC.mean(axis=(1, 2)) / 255 + 0.25
        tokens = np.stack([colours_BC * share for share in (1.0, 0.5, 0.25, 0.125, 2.0)], axis=1)
        return {"tokens": tokens.astype(np.float16)}

    def frame_maps(
        self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
    ) -> dict[str, Tensor]:
        maps = self.encode_frames(frames_BHWC.numpy(), views)
        return {view: torch.from_numpy(tokens) for view, tokens in maps.items()}

    def encode_texts(
        self, texts: Sequence[str], text_length: int | None = None
    ) -> NDArray[np.float16]:
        return np.array([[len(text), text.count("a"), text.count("e")] for text in texts], "f2")

    def reference(self) -> Reference:
        return reference_by_itself(self)


def patient_encoder(spec: str, *, device: str = "cpu", precision: str = "fp32") -> PatientEncoder:
    """What stands in for `build_encoder`."""
    preprocessing = Preprocessing(
        size=32, resize_to=32, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
    )
    info = EncoderInfo(
        spec=spec,
        weights_sha256="none",
        dim=3,
        tokens_per_frame=5,
        grid=2,
        width=3,
        num_blocks=2,
        precision="fp32",
        logit_scale=2.5,
        preprocessing=preprocessing,
    )
    return PatientEncoder(info)


def patient_attempt(task: DecodeTask) -> Clip | Failure:
    """`attempt`, slower, and very slow until a test says that it has seen enough."""
    file = os.environ.get(SLOW_UNTIL)
    time.sleep(SLOW_DECODE_SECONDS if file and not Path(file).exists() else DECODE_SECONDS)
    return attempt(task)


def install() -> None:
    """Puts both in their places, in a driver or in a worker of Ray."""
    from muse.pipeline import shards
    from muse.pipeline.decoding import decoder
    from muse.pipeline.encoders.batches import BatchEncoder

    setattr(shards, "build_encoder", patient_encoder)  # noqa: B010  # it is not theirs
    # Of GPUs that Ray only counts.
    shards.is_exact_on = lambda device, preprocessing: False
    on_cpu = functools.partial(BatchEncoder, device="cpu")
    setattr(shards, "BatchEncoder", lambda encoder, device: on_cpu(encoder))  # noqa: B010
    decoder.attempt = patient_attempt


# -- a run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a driver does."""

    out: Path
    videos: Path
    engine: str = "local"
    num_decoders: int = 2
    num_encoders: int | None = None
    address: str | None = None
    device: str = "cpu"
    slow_until: Path | None = None
    """A video takes two seconds to decode before this file is there (Ray only)."""
    seed: int = 0
    """Of the order in which the videos are listed."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further fields of `ExtractConfig`."""

    def listing(self) -> Listing:
        """All files and one that is missing, with a caption each."""
        paths = sorted(self.videos.iterdir()) if self.videos.is_dir() else []
        refs = [VideoRef(video_id=path.stem, path=path) for path in paths]
        refs.append(VideoRef(video_id="gone", path=None))
        random.Random(self.seed).shuffle(refs)
        captions = tuple(
            Caption(video_id=ref.video_id, text=f"a song of {ref.video_id}", split="test")
            for ref in refs
        )
        return Listing(protocol="folder", videos=tuple(refs), captions=captions)

    def extract(self) -> None:
        from muse.pipeline.extract import ExtractConfig, extract
        from muse.pipeline.schedule import Workers

        config = ExtractConfig(
            out=self.out,
            encoder="patient",
            engine=self.engine,  # type: ignore[arg-type]
            ray_address=self.address,
            device=self.device,
            precision="fp32",
            sampling=Sampling(num_frames=2, kind="uniform"),
            shard_size=SHARD_SIZE,
            batch_videos=2,
            workers=Workers(num_decoders=self.num_decoders, num_encoders=self.num_encoders),
            **self.settings,
        )
        extract(config, self.listing())


class Driver:
    """A process that does a run; it is started at once."""

    def __init__(self, run: Run) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["muse.pipeline.extract", "muse.pipeline.zarr_layout", "muse.pipeline.golden", "av"]
        )
        self._ours, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_drive, args=(run, theirs))
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()

    def outcome(self, *, timeout: float = 120) -> str:
        """``done``, the line of a `MuseError`, or the traceback of anything else."""
        try:
            words = str(self._ours.recv()) if self._ours.poll(timeout) else "no end"
        except EOFError:
            words = "killed"
        self._process.join(10)
        self.kill()
        return words


def _drive(run: Run, connection: Connection) -> None:
    from muse.errors import MuseError

    os.setsid()
    install()
    if run.engine == "ray":
        _join_ray(run)
    try:
        run.extract()
    except MuseError as error:
        connection.send(f"{type(error).__name__}: {error}")
    except BaseException:  # noqa: BLE001  # whatever it is, a test shows it
        connection.send(traceback.format_exc())
    else:
        connection.send("done")


def _join_ray(run: Run) -> None:
    """Ray with workers that have `install` behind them; the engine joins it."""
    import ray

    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    ray.init(
        address=run.address or "local",
        num_cpus=None if run.address else run.num_decoders,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={
            "worker_process_setup_hook": "chaos.install",
            "env_vars": {
                "PYTHONPATH": paths,
                "OMP_NUM_THREADS": "1",
                **({SLOW_UNTIL: str(run.slow_until)} if run.slow_until else {}),
            },
        },
        **({} if run.address else {"include_dashboard": False}),
    )


# -- processes -----------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """Of a process, all that are alive, in no order."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            parent = _parent(int(entry.name))
            children.setdefault(parent, []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        mine = children.get(left.pop(), [])
        found += mine
        left += mine
    return found


def is_alive(pid: int) -> bool:
    """False for one that is gone, and for a zombie that nobody has collected."""
    return _fields(pid)[:1] not in ([], ["Z"], ["X"])


def title(pid: int) -> str:
    """The command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def kill(pid: int) -> bool:
    """True if it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Any, *, timeout: float = 60) -> bool:
    """Whether something came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def decoders_of(pids: Sequence[int]) -> Iterator[int]:
    """Those that are our decoding processes."""
    return (pid for pid in pids if "multiprocessing.spawn" in title(pid))


def _parent(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _fields(pid: int) -> list[str]:
    """State, parent and so on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []
