"""One writer at a time in an object store: a lease, an object that its holder keeps renewing.

A holder that dies stops renewing, and after `DEAD_AFTER_SECONDS` another run may take the lease;
a dead process of this machine's is taken over at once. Hosts' clocks have to agree to within about
a minute. A lease can be lost (the network is away for long, somebody removes the object), so its
holder asks `Lease.check` before it commits anything. Knows nothing of what is written under it.
"""

import contextlib
import json
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from muse.errors import StoreError
from muse.pipeline.storage.lock import refusal, signature
from muse.pipeline.storage.names import LEASE_FILE

RENEW_SECONDS = 20.0
DEAD_AFTER_SECONDS = 90.0  # four renewals may fail
SETTLE_SECONDS = 1.0  # longer than a put: then both of two runs that took the lease see who has it

logger = logging.getLogger(__name__)


class LeaseStorage(Protocol):
    """What a lease needs of its store."""

    @property
    def location(self) -> str:
        """The store's URL."""
        ...

    def read(self, name: str) -> bytes:
        """The whole of a file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Puts a file there."""
        ...

    def write_new(self, name: str, content: bytes) -> None:
        """Puts a file there if there is none; an OSError if there is."""
        ...

    def remove(self, *names: str) -> None:
        """Removes files."""
        ...


class Lease:
    """A lease that is held."""

    def __init__(self, storage: LeaseStorage) -> None:
        self._storage = storage
        self._fields = {**signature(), "machine": _machine(), "token": secrets.token_hex(16)}

    def acquire(self, *, settle_seconds: float) -> None:
        """Takes the lease, and looks after ``settle_seconds`` whether it still has it.

        Raises:
            StoreError: If another run has it.
        """
        holder = _read(self._storage)
        if holder is None:
            self._create()
        elif (seconds := _seconds_left(holder)) > 0:
            raise _refused(self._storage, holder, seconds)
        else:
            self._storage.write(LEASE_FILE, self._content())
        # Where a store ignores "only if it is new", or two runs took over a dead run's lease, the
        # last to write has it.
        time.sleep(settle_seconds)
        holder = _read(self._storage)
        if not self._is_ours(holder):
            raise _refused(self._storage, holder, _seconds_left(holder or {}))

    def check(self) -> None:
        """Returns if this run still has the lease.

        Raises:
            StoreError: If another run has it, or nobody can say.
        """
        try:
            holder = _read(self._storage)
        except OSError as error:
            raise StoreError(
                f"{self._storage.location}: can't be asked who is writing to it "
                f"({error.strerror}). Start this run again when it answers."
            ) from error
        if not self._is_ours(holder):
            raise StoreError(
                f"{self._storage.location}: this run has lost its lock, because it was silent for "
                f"{DEAD_AFTER_SECONDS:.0f} s or because {LEASE_FILE} was removed. Start it again "
                "once no other run is writing."
            )

    def renew_until(self, stop: threading.Event) -> None:
        """Renews the lease every `RENEW_SECONDS`, for as long as it is ours."""
        while not stop.wait(RENEW_SECONDS):
            try:
                if not self._is_ours(_read(self._storage)):
                    return  # `check` says so
                self._storage.write(LEASE_FILE, self._content())
            except OSError as error:
                logger.warning(
                    "%s: the lock could not be renewed (%s). Tried again in %.0f s; without it "
                    "for %.0f s, the run stops.",
                    self._storage.location,
                    error.strerror,
                    RENEW_SECONDS,
                    DEAD_AFTER_SECONDS,
                )

    def give_back(self) -> None:
        """Removes the lease, if it is ours. Otherwise it ends by itself."""
        with contextlib.suppress(OSError):
            if self._is_ours(_read(self._storage)):
                self._storage.remove(LEASE_FILE)

    def _create(self) -> None:
        try:
            self._storage.write_new(LEASE_FILE, self._content())
        except OSError as error:  # each store has its own for a file that is there
            if _read(self._storage) is None:
                raise StoreError(
                    f"{self._storage.location}: can't be written ({error.strerror}). Is its bucket "
                    "there, and may you write to it?"
                ) from error

    def _content(self) -> bytes:
        return json.dumps({**self._fields, "renewed": time.time()}, indent=1).encode()

    def _is_ours(self, holder: dict[str, Any] | None) -> bool:
        return holder is not None and holder.get("token") == self._fields["token"]


@contextlib.contextmanager
def hold_lease(storage: LeaseStorage, *, settle_seconds: float) -> Iterator[Lease]:
    """Holds the only lease of a store, and keeps it alive from a thread of its own.

    Raises:
        StoreError: If another run holds it.
    """
    lease = Lease(storage)
    try:
        lease.acquire(settle_seconds=settle_seconds)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{storage.location}: can't be locked ({error.strerror}).") from error
    stop = threading.Event()
    renewing = threading.Thread(target=lease.renew_until, args=(stop,), name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        stop.set()
        renewing.join(RENEW_SECONDS)
        lease.give_back()


def _read(storage: LeaseStorage) -> dict[str, Any] | None:
    try:
        fields = json.loads(storage.read(LEASE_FILE))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}  # not a lease of ours: nobody renews it
    return fields if isinstance(fields, dict) else {}


def _seconds_left(holder: dict[str, Any]) -> float:
    """Until a lease ends if it is not renewed; 0 or less for one whose holder is dead."""
    renewed = holder.get("renewed")
    if not isinstance(renewed, int | float):
        return 0.0
    if holder.get("machine") == _machine() and not _is_alive(holder.get("pid")):
        return 0.0
    return renewed + DEAD_AFTER_SECONDS - time.time()


def _refused(storage: LeaseStorage, holder: dict[str, Any] | None, seconds: float) -> StoreError:
    return StoreError(
        f"{refusal(storage.location, holder)} If it was killed, its lock ends in "
        f"{max(math.ceil(seconds), 1)} s."
    )


def _machine() -> str:
    """This machine since it started, and its processes' numbering: a host's name is not unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"unknown {secrets.token_hex(8)}"  # equals no other: a dead run is waited for


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
