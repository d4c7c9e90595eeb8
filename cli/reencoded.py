"""The store that a head reads: the one that was named, or what a finetuned run makes of it.

A run that trained a part of its encoder reads tokens that only it makes: they are encoded once,
into a store of their own. Every command that opens a head comes through here. Knows nothing of
what was trained.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muse.cli.flags import ViewFlag, open_for_head

if TYPE_CHECKING:
    from muse.head.checkpoint import RunConfig
    from muse.pipeline.header import EncoderInfo
    from muse.pipeline.reencode import ReEncoder
    from muse.pipeline.store import FeatureStore, RawStore

STORES_FOLDER = "stores"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadStore:
    """A store as a head reads it."""

    store: "FeatureStore"
    encoder: "ReEncoder | None" = None
    """The run's own, which made the store; None where nothing of the encoder was trained."""

    source: "FeatureStore | None" = None
    """What it was encoded from, where that was opened."""

    @property
    def source_sha256(self) -> str:
        """Root of what the store was encoded from; empty for one that was extracted."""
        from muse.pipeline.derivation import derivation_of

        if self.source is not None:
            return self.source.root_sha256
        made_from = derivation_of(self.store)
        return made_from.root_sha256 if made_from else ""

    @property
    def own_encoder(self) -> "EncoderInfo | None":
        """As `muse.head.evaluate.open_head` asks for it."""
        return None if self.encoder is None else self.encoder.info


def store_of_head(
    store: str, head: str, view: ViewFlag | None, *, device: str, encoded: Path | None = None
) -> HeadStore:
    """What a head reads of a store; for a finetuned run encoded first, where it is not there yet.

    Args:
        store: Location of the source, or of a store that this run has encoded.
        head: ``mean-pool``, or a run's folder.
        view: As typed.
        device: Where it is encoded.
        encoded: Folder for encoded stores; without, ``stores`` in the run's folder.

    Raises:
        MuseError: If one is not there, is damaged, or does not fit the other.
    """
    if not _is_finetuned(head):
        return HeadStore(store=open_for_head(store, head, view))
    from muse.errors import UsageError
    from muse.head.checkpoint import read_config
    from muse.head.reencoder import load_reencoder
    from muse.pipeline.header import require_same_features
    from muse.pipeline.store import open_raw_store

    run = Path(head)
    if view is not None:
        raise UsageError(
            f"--view {view.value}: {head} is finetuned and reads its own. Leave it out"
        )
    named, config = open_raw_store(store), read_config(run)
    encoder = load_reencoder(run, device=device)  # type: ignore[arg-type]  # checked there
    if named.header.encoder == encoder.info:
        return HeadStore(store=named, encoder=encoder)
    require_same_features(named.header, config.store, what=store)
    source = open_raw_store(store, view=_view_of(config, named, run))
    folder = _folder(encoded or run / STORES_FOLDER, source, encoder)
    return HeadStore(store=_encoded(source, folder, encoder), encoder=encoder, source=source)


def _view_of(config: "RunConfig", store: "RawStore", run: Path) -> str:
    """What the run's towers read of a store: its own view, or for frames the one that it has.

    Raises:
        IncompatibleStoreError: If the store has not that view.
    """
    from muse.errors import IncompatibleStoreError
    from muse.head.finetune import view_below
    from muse.head.train_config import ALL_FINETUNE

    if config.train["finetune"] == ALL_FINETUNE:
        return view_below(ALL_FINETUNE, store.header) or config.view
    views = store.header.views
    if config.view not in views:
        raise IncompatibleStoreError(
            f"{store.location}: has the views {', '.join(views)}, and {run} reads {config.view}. "
            f"Extract with --views {','.join([*views, config.view])} into another --out."
        )
    return config.view


def _is_finetuned(head: str) -> bool:
    from muse.head.checkpoint import is_finetuned, is_run, read_config

    return is_run(Path(head)) and is_finetuned(read_config(Path(head)))


def _folder(parent: Path, source: "RawStore", encoder: "ReEncoder") -> Path:
    """By the new store's fingerprint and the listing: other weights or videos, another folder.

    What was encoded of this source when it listed fewer is gone on with.
    """
    import dataclasses

    header = dataclasses.replace(source.header, encoder=encoder.info)
    beginning = f"{header.fingerprint[:12]}-"
    folder = parent / f"{beginning}{header.listing_sha256[:12]}"
    others = () if folder.exists() else sorted(parent.glob(f"{beginning}*"))
    return next((other for other in others if _has_grown(other, source)), folder)


def _has_grown(folder: Path, source: "RawStore") -> bool:
    """True if a store was made of this source, and all that it lists comes first there."""
    from muse.errors import StoreError
    from muse.pipeline.derivation import derivation_of
    from muse.pipeline.store import open_raw_store

    try:
        found = open_raw_store(folder)
        made_from = derivation_of(found)
    except StoreError:  # a run that is being written, or damaged
        return False
    ids, captions = list(found.video_ids), list(found.captions)
    return (
        made_from is not None
        and made_from.source == source.location
        and ids == list(source.video_ids[: len(ids)])
        and captions == list(source.captions[: len(captions)])
    )


def _encoded(source: "RawStore", folder: Path, encoder: "ReEncoder") -> "FeatureStore":
    from muse.cli.interruption import interruptible
    from muse.cli.progress import WorldReporter
    from muse.cli.report import print_note
    from muse.pipeline.reencode import reencode

    with interruptible(), WorldReporter("encode again") as reporter:
        made = reencode(source, folder, encoder, on_progress=reporter.update)
    if reporter.num_new:
        print_note(
            f"encoded {reporter.num_new} videos into {made.location}, which is read from now on"
        )
    return made
