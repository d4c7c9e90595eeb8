"""Settings of ``muse extract`` that a dataset decides where no flag does.

A flag wins. Without it, a new store of a ``--dataset`` takes what papers take there, and a store
that is there goes on with its own: what was made before there were presets can be finished by the
command that began it. A folder of one's own has the usual defaults, whatever the store has.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse.cli.report import print_note

if TYPE_CHECKING:
    from muse.pipeline.header import Sampling
    from muse.pipeline.records import Listing
    from muse.pipeline.store_zarr import ZarrStore


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedSettings:
    """What the flags say; None where one was not given."""

    sampling: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    text_length: int | None = None
    """0 for the encoder's own limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a run takes."""

    sampling: "Sampling"
    text_length: int | None


def settings_of(asked: AskedSettings, *, dataset: str | None, out: str) -> Settings:
    """The settings of a run; says on stderr which of them nobody asked for.

    Args:
        asked: By flags.
        dataset: Of ``--dataset``; None for a folder.
        out: The store.

    Raises:
        UsageError: If a setting is out of its range.
        StoreError: If a store is there and can't be read.
    """
    from muse.pipeline.datasets.benchmark import benchmark_of
    from muse.pipeline.header import Sampling

    given = {name: value for name, value in dataclasses.asdict(asked).items() if value is not None}
    if dataset is None:
        return _settings({**_values(Sampling(), None), **given})
    benchmark = benchmark_of(dataset)
    preset = _values(benchmark.sampling, benchmark.text_length)
    store = _store_at(out)
    header = store.header if store else None
    own = preset if header is None else _values(header.sampling, header.text_length)
    kept = {name: value for name, value in own.items() if name not in given}
    if header is None:
        print_note(f"preset of {dataset}: {_text(kept) or 'none, by your flags'}.")
    elif changed := {n: v for n, v in kept.items() if v != preset[n]}:
        print_note(
            f"{out} was made with {_text(changed)}, and goes on so; a new store of {dataset} "
            f"would have {_text({name: preset[name] for name in changed})}."
        )
    return _settings({**own, **given})


def with_preset_window(listing: "Listing", dataset: str, *, out: str) -> "Listing":
    """The listing with the windows of its preset, unless a store has those videos without any.

    Args:
        listing: Of ``--clip-window preset``.
        dataset: Of ``--dataset``.
        out: The store.

    Raises:
        StoreError: If a store is there and can't be read.
    """
    from muse.pipeline.datasets.benchmark import benchmark_of

    window = benchmark_of(dataset).window
    if window is None:
        return listing
    store = _store_at(out)
    known = dict(zip(store.video_ids, store.windows, strict=True)) if store else {}
    if not any(i.video_id in known and known[i.video_id] is None for i in listing.videos):
        if store is None:
            print_note(f"preset of {dataset}: --clip-window {window.text}.")
        return listing
    print_note(
        f"{out} was made with --clip-window none, and goes on so; a new store of {dataset} would "
        f"have --clip-window {window.text}."
    )
    videos = tuple(dataclasses.replace(video, window=None) for video in listing.videos)
    return dataclasses.replace(listing, videos=videos)


def _values(sampling: "Sampling", text_length: int | None) -> dict[str, Any]:
    return {
        "sampling": sampling.kind,
        "num_frames": sampling.num_frames,
        "fps": sampling.fps,
        "text_length": text_length or 0,
    }


def _settings(values: Mapping[str, Any]) -> Settings:
    from muse.pipeline.header import Sampling

    sampling = Sampling(kind=values["sampling"], num_frames=values["num_frames"], fps=values["fps"])
    return Settings(sampling=sampling, text_length=values["text_length"] or None)


def _text(values: Mapping[str, Any]) -> str:
    return ", ".join(_flags(values))


def _flags(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        is_unused = name == "fps" and values.get("sampling") in ("uniform", "keyframes")
        if not is_unused:
            number = f"{value:g}" if isinstance(value, float) else value
            yield f"--{name.replace('_', '-')} {number}"


def _store_at(out: str) -> "ZarrStore | None":
    """The store that a run goes on with; None if it makes a new one."""
    from muse.pipeline.sole_writer import existing_store
    from muse.pipeline.storage.files import open_storage

    return existing_store(open_storage(out))
