"""Names of files inside a store: which lead outside, and which are not content.

Knows nothing of where the files are.
"""

from functools import lru_cache

from muse.errors import StoreError

LOCK_FILE = ".lock"
LEASE_FILE = ".lock.json"
PARTIAL_SUFFIX = ".partial"


def is_hidden(name: str) -> bool:
    """True for locks and for files whose writer has not finished."""
    last = name.rpartition("/")[2]
    return last in (LOCK_FILE, LEASE_FILE) or last.endswith(PARTIAL_SUFFIX)


@lru_cache(maxsize=4096)  # a store of 250,000 videos has as many shards, each read again and again
def require_name(name: str) -> None:
    """Returns if a name is one inside a store: names also come from files, and files can lie.

    Raises:
        StoreError: If it leads outside, or has no single meaning.
    """
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise StoreError(f"{name!r}: not the name of a file inside a store.")
