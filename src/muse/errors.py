"""Errors that muse raises on purpose.

Each derives from `MuseError` and from the builtin it resembles, so a caller may catch either. A
message names the thing, the value, the limit and the next step, on one line: ``muse.cli`` prints
it as it is and exits with 1. Anything else that escapes is a bug and shows its traceback.
"""


class MuseError(Exception):
    """Base of every error that muse raises on purpose."""


class UsageError(MuseError, ValueError):
    """An option's value is out of its range or does not go with another option."""


class ManifestError(MuseError, ValueError):
    """A caption file, a dataset's files or a video folder can't be used as they are."""


class EncoderError(MuseError, RuntimeError):
    """An encoder can't be built: unknown name, missing weights, missing package."""


class ParityError(MuseError, ValueError):
    """Features are further from those of the encoder's own library than a store may be."""


class WorkerError(MuseError, RuntimeError):
    """A worker process can't be started, or died beyond all retries."""


class StoreError(MuseError, OSError):
    """A feature store can't be read or written."""


class IncompatibleStoreError(MuseError, ValueError):
    """A store was made with other settings than this run, or this head, needs."""


class CheckpointError(MuseError, OSError):
    """A run folder can't be read, or holds something else."""


class MetricError(MuseError, ValueError):
    """Scores can't be ranked: NaN, or shapes that do not fit."""


class DecodeError(MuseError, ValueError):
    """A video can't be decoded.

    Attributes:
        reason: One word of `muse.pipeline.records.FAILURE_REASONS`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles across process boundaries with its reason."""
        return (_decode_error, (str(self), self.reason))


def _decode_error(message: str, reason: str) -> DecodeError:
    return DecodeError(message, reason=reason)


class TooManyFailuresError(MuseError, RuntimeError):
    """More videos failed than the run allows; what was committed is safe."""
