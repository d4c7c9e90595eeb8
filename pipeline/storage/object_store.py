"""Files in an object store, through fsspec: the only importer of it.

An object appears whole with one put, so there are no partial files to see or to remove; parts of a
large put that was killed are the store's to expire (on S3, by a lifecycle rule). Nothing is cached:
what another process wrote is seen. Where the store is and who we are comes from the environment, as
its library has it: for S3 ``AWS_ENDPOINT_URL`` or ``AWS_ENDPOINT_URL_S3``, AWS_ACCESS_KEY_ID,
AWS_PROFILE and the rest of botocore's, or fsspec's own FSSPEC_S3_ENDPOINT_URL, FSSPEC_S3_KEY,
FSSPEC_S3_SECRET and ~/.config/fsspec. Knows nothing of what the files hold.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import fsspec

from muse.errors import MuseError, UsageError
from muse.pipeline.storage.durable_files import Content
from muse.pipeline.storage.files import WriteLock
from muse.pipeline.storage.lease import SETTLE_SECONDS, hold_lease
from muse.pipeline.storage.names import is_hidden, require_name

# Where one put is atomic, and what has to be installed. On others (sftp, hdfs, smb) a reader could
# see half a file.
_PACKAGES = {
    "s3": "'muse-retrieval[s3]'",
    "s3a": "'muse-retrieval[s3]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": "fsspec",
}
_IDENTITY = ("ETag", "etag", "generation", "LastModified", "last_modified", "created", "size")
_ERRNO = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    PermissionError: errno.EACCES,
    TimeoutError: errno.ETIMEDOUT,
}


class FsspecStorage:
    """A place of an object store, or ``memory://`` for the life of this process.

    Args:
        url: ``s3://bucket/folder`` and the like. The bucket has to be there.

    Raises:
        UsageError: If muse can't use such a URL, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        self._scheme = scheme.lower()
        if self._scheme not in _PACKAGES:
            raise UsageError(
                f"{url}: no store can be at '{scheme}://'. Choose one of "
                f"{', '.join(f'{known}://' for known in _PACKAGES)}, or mount it and give the "
                "folder."
            )
        if self._scheme != "memory" and not rest.strip("/"):
            raise UsageError(f"{url}: names no bucket. Write {self._scheme}://bucket/folder.")
        self._url = f"{self._scheme}://{rest.rstrip('/')}"
        self._filesystem, self._pid = self._connect(), os.getpid()
        self._root: str = self._filesystem._strip_protocol(self._url).rstrip("/")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles as its URL: a connection does not travel."""
        return (FsspecStorage, (self._url,))

    @property
    def location(self) -> str:
        """The URL."""
        return self._url

    def exists(self) -> bool:
        """True if the URL holds anything."""
        with self._errors_of("") as files:
            try:
                files.info(self._root)
            except FileNotFoundError:
                return False
            return True

    def read(self, name: str) -> bytes:
        """The whole of a file."""
        with self._errors_of(name) as files:
            return bytes(files.cat_file(self._path(name)))

    def read_into(self, name: str, buffer: memoryview, *, offset: int) -> int:
        """Fills a buffer from a file, with one request for its range."""
        if buffer.nbytes == 0:
            return 0
        try:
            with self._errors_of(name) as files:
                end = offset + buffer.nbytes
                found = files.cat_file(self._path(name), start=offset, end=end)
        except FileNotFoundError:
            raise
        except OSError:  # S3 refuses a range that begins where the file ends
            size = self.size(name)
            if size is not None and offset >= size:
                return 0
            raise
        buffer.cast("B")[: len(found)] = found
        return len(found)

    def size(self, name: str) -> int | None:
        """Bytes of a file."""
        facts = self._facts(name)
        return None if facts is None else int(facts["size"])

    def identity(self, name: str) -> object | None:
        """The store's own mark of an object's content, its time and its size."""
        facts = self._facts(name)
        return None if facts is None else tuple(str(facts.get(key)) for key in _IDENTITY)

    def entries(self) -> list[str]:
        """Names of what is directly below the URL."""
        with self._errors_of("") as files:
            try:
                found = files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        names = {path.rstrip("/").rpartition("/")[2] for path in found}
        return sorted(name for name in names if not is_hidden(name))

    def list(self, folder: str) -> list[str]:
        """Names of all files below a folder."""
        top = self._path(folder) if folder else self._root
        with self._errors_of(folder) as files:
            try:
                found = files.find(top)
            except FileNotFoundError:
                return []
        # A file has no files below it; and a bucket can hold objects that stand for folders.
        below = [path for path in found if path.startswith(f"{top}/") and not path.endswith("/")]
        names = (path[len(self._root) + 1 :] for path in below)
        return sorted(name for name in names if not is_hidden(name))

    def write(self, name: str, content: Content) -> None:
        """Puts a file there, with one put."""
        try:
            with self._errors_of(name) as files:
                files.pipe_file(self._path(name), _joined(content))
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "its bucket is not there", self._url) from error

    def write_new(self, name: str, content: bytes) -> None:
        """Puts a file there if there is none of that name.

        Raises:
            OSError: If there is one (of a kind that differs by store), or it can't be written.
        """
        with self._errors_of(name) as files:
            files.pipe_file(self._path(name), content, mode="create")

    def remove(self, *names: str) -> None:
        """Removes files."""
        for name in names:
            with contextlib.suppress(FileNotFoundError), self._errors_of(name) as files:
                files.rm_file(self._path(name))

    def remove_partials(self) -> None:
        """Nothing: a put that was killed left no object."""

    def create(self) -> None:
        """Nothing: folders come with their files, and buckets are their owner's to make."""

    def free_bytes(self) -> int | None:
        """None: an object store does not say."""
        return None

    def lock(self) -> AbstractContextManager[WriteLock]:
        """The right to write: a lease, which ends by itself some time after this run dies."""
        settle_seconds = 0.0 if self._scheme == "memory" else SETTLE_SECONDS
        return hold_lease(self, settle_seconds=settle_seconds)

    def _path(self, name: str) -> str:
        require_name(name)
        return f"{self._root}/{name}"

    def _facts(self, name: str) -> dict[str, Any] | None:
        with self._errors_of(name) as files:
            try:
                facts: dict[str, Any] = files.info(self._path(name))
            except FileNotFoundError:
                return None
        return facts if facts["type"] == "file" else None

    def _connect(self) -> Any:  # fsspec has no types
        try:
            kind = fsspec.get_filesystem_class(self._scheme)
        except ImportError as error:
            raise UsageError(
                f"{self._url}: the package that reads {self._scheme}:// is not installed. "
                f"Run: pip install {_PACKAGES[self._scheme]}"
            ) from error
        options = kind._get_kwargs_from_urls(self._url)
        return fsspec.filesystem(self._scheme, use_listings_cache=False, **options)

    @contextlib.contextmanager
    def _errors_of(self, name: str) -> Iterator[Any]:
        """The file system, whose libraries' errors leave as OSErrors."""
        if os.getpid() != self._pid:  # a connection does not live through a fork
            self._filesystem, self._pid = self._connect(), os.getpid()
        try:
            yield self._filesystem
        except Exception as error:  # such libraries' errors have no common base
            is_a_bug = not isinstance(error, OSError) and type(error).__module__ == "builtins"
            if is_a_bug or isinstance(error, MuseError):
                raise
            raise _as_os_error(error, f"{self._url}/{name}".rstrip("/")) from error


def _joined(content: Content) -> bytes:
    if isinstance(content, bytes):
        return content
    return content.tobytes() if isinstance(content, memoryview) else b"".join(content)


def _as_os_error(error: Exception, url: str) -> OSError:
    """The same error with a number, its words on one line, and the URL."""
    number = getattr(error, "errno", None) or next(
        (number for kind, number in _ERRNO.items() if isinstance(error, kind)), errno.EIO
    )
    words = os.strerror(number) if number == errno.ENOENT else " ".join(str(error).split())
    return OSError(number, words or type(error).__name__, url)
