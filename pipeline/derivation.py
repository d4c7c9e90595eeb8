"""What a store that was encoded from another one was made from, as the store itself says it.

::

    STORE/derived.json                  the source: where it was, its header, what was read of it
    STORE/derived/videos-000000.json    of each shard: the state its source was in, a hash a row

A shard's file is written after its receipt, and a row that it has no hash of is done again: so a
kill at any moment costs work and never trust. Knows nothing of encoders.
"""

from dataclasses import dataclass
from typing import Any, Literal

from muse.errors import StoreError
from muse.pipeline.header import StoreHeader, header_from_json
from muse.pipeline.receipts import ReceiptKind
from muse.pipeline.sealed_json import sealed_bytes, unsealed
from muse.pipeline.storage.files import Storage
from muse.pipeline.store import FeatureStore
from muse.pipeline.store_zarr import ZarrStore

DERIVED_FILE = "derived.json"
ORIGINS_FOLDER = "derived"
Texts = Literal["copied", "encoded"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivation:
    """Where the rows of a store come from."""

    source: str
    """The source's folder, URL or file when it was last read."""
    view: str
    """What of a video was encoded, such as ``block:10``."""
    root_sha256: str
    """Of the source when it was last read."""
    texts: Texts
    """Whether the captions' embeddings are the source's, or the encoder's own."""
    header: StoreHeader
    """The source's, and with it the encoder and the weights that made the view."""

    def as_json(self) -> dict[str, Any]:
        """The content of ``derived.json``."""
        names = ("source", "view", "root_sha256", "texts")
        return {**{name: getattr(self, name) for name in names}, "header": self.header.as_json()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardOrigin:
    """What one shard was made from."""

    kind: ReceiptKind
    index: int
    state_sha256: str
    """Of the source's shard: where it is the same, no row has to be looked at."""
    rows: tuple[str, ...]
    """A hash of all that was read of each row; empty for a row without anything to read."""

    @property
    def name(self) -> str:
        """Of its file in the store."""
        return _origin_name(self.kind, self.index)


def derivation_of(store: FeatureStore) -> Derivation | None:
    """What a store was made from; None for one that was extracted, and for an exported file.

    Raises:
        StoreError: If the store says it and it can't be read.
    """
    return read_derivation(store.storage) if isinstance(store, ZarrStore) else None


def read_derivation(storage: Storage) -> Derivation | None:
    """The same, of the files of a store.

    Raises:
        StoreError: If the file is there and can't be read.
    """
    if storage.size(DERIVED_FILE) is None:
        return None
    where = f"{storage.location}/{DERIVED_FILE}"
    try:
        fields = unsealed(storage.read(DERIVED_FILE))
        header = header_from_json(fields.pop("header"), source=where)
        return Derivation(**fields, header=header)
    except StoreError:  # is an OSError too
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{where}: does not say what the store was made from ({error}). Remove the store's "
            "folder, and it is encoded again."
        ) from error


def write_derivation(storage: Storage, derivation: Derivation) -> None:
    """Puts it beside the store's header, if it is not there already."""
    content = sealed_bytes(derivation.as_json())
    if storage.size(DERIVED_FILE) is None or storage.read(DERIVED_FILE) != content:
        storage.write(DERIVED_FILE, content)


def read_origin(storage: Storage, kind: ReceiptKind, index: int) -> ShardOrigin | None:
    """What a shard was made from; None where the store does not know, and it is to be done again.

    A file that is damaged is as good as none.
    """
    try:
        fields = unsealed(storage.read(_origin_name(kind, index)))
        origin = ShardOrigin(**{**fields, "rows": tuple(fields["rows"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return origin if (origin.kind, origin.index) == (kind, index) else None


def write_origin(storage: Storage, origin: ShardOrigin) -> None:
    """Says what a shard was made from, once its receipt is written."""
    fields = {name: getattr(origin, name) for name in origin.__slots__}
    storage.write(origin.name, sealed_bytes(fields))


def _origin_name(kind: ReceiptKind, index: int) -> str:
    return f"{ORIGINS_FOLDER}/{kind}-{index:06d}.json"
