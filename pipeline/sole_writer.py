"""The one run that writes to a store: it keeps all others out, and finds what there is.

Knows nothing of what is written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from muse.pipeline.storage.files import Storage, WriteLock, open_storage
from muse.pipeline.store import HEADER_FILE
from muse.pipeline.store_writer import require_free, writing
from muse.pipeline.store_zarr import ZarrStore


@contextmanager
def only_writer(out: Path | str) -> Iterator[tuple[Storage, WriteLock]]:
    """The files of a store, there or to be made, with every other run kept out.

    Raises:
        StoreError: If another run is writing to it, or something else is in its place.
    """
    storage = open_storage(out)
    if storage.size(HEADER_FILE) is None:
        require_free(storage)  # before a lock lies in a folder of others, or a .partial is removed
    with writing(storage.location):
        storage.create()
    with storage.lock() as lock:
        with writing(storage.location):
            storage.remove_partials()
        yield storage, lock
        with writing(storage.location):
            storage.remove_partials()  # of a worker that was lost in the middle of a file


def existing_store(storage: Storage) -> ZarrStore | None:
    """The store that a run goes on with, or None if it makes a new one."""
    return ZarrStore.open(storage.location) if storage.size(HEADER_FILE) is not None else None
