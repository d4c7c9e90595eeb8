"""A forecast as a value: what is printed, kept beside the store and compared with the run.

Knows nothing of how it was made.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from muse.errors import StoreError
from muse.pipeline.sealed_json import json_bytes
from muse.pipeline.storage.files import Storage
from muse.pipeline.store import FORECAST_FILE
from muse.pipeline.store_writer import writing

Stage = Literal["decode", "encode", "write", "captions"]
INTERVAL = 0.8  # of the runs end within it


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run will take. Videos, captions and bytes are those still to be done."""

    num_videos: int
    """Pending, missing ones included."""
    num_missing: int
    """Listed without a file; known without probing."""
    num_captions: int
    """To be embedded: none of a missing video."""
    num_frames: int
    """Expected, of videos that decode."""
    max_frames: int
    """If every present video had T."""
    num_failures: tuple[float, float, float]
    """(expected, low, high) of present files: Wilson's 95 % interval of the sample's share."""
    array_bytes: dict[str, int]
    """Array -> bytes, exact if every present file decodes."""
    row_bytes: int
    """Of one video: what each failure saves, as long as its shard has another video."""
    table_bytes: int
    """About what tables and receipts take beside them."""
    thumbnail_bytes: int = 0
    """About what thumbnails take, if they are as those of the sample; 0 without any."""
    frame_bytes: int = 0
    """Likewise of the JPEG files of the view ``frames:jpeg``."""
    decode_core_hours: float
    encode_hours: float
    """GPU-hours, or core-hours on the CPU; captions included."""
    encode_device: str
    """``cuda`` or ``cpu``."""
    wall_seconds: float
    wall_low_seconds: float
    """Lower end of the 80 % interval."""
    wall_high_seconds: float
    """Upper end of the 80 % interval."""
    peak_memory_bytes: int
    """Of all processes of the run on this machine."""
    free_bytes: int | None
    """On the store's disk; None where nobody knows."""
    binds: Stage
    """The stage that the run would save most without."""
    binds_because: str
    """The same as a sentence with rates."""
    num_decoders: int
    num_encoders: int
    num_sampled: int
    """Videos that were decoded for this."""
    num_sampled_failures: int
    decode_cpu_share: float | None
    """CPU seconds a second of decoding in the probe; well below 1, the machine or disk was busy."""
    probe_seconds: float

    @property
    def output_bytes(self) -> int:
        """Of all arrays, exact if every present file decodes."""
        return sum(self.array_bytes.values())

    @property
    def needed_bytes(self) -> int:
        """That the disk must hold."""
        return self.output_bytes + self.table_bytes + self.thumbnail_bytes + self.frame_bytes

    def as_json(self) -> dict[str, Any]:
        """The content of ``forecast.json``."""
        return {**dataclasses.asdict(self), "output_bytes": self.output_bytes}


def forecast_from_json(content: object, *, source: str) -> Forecast:
    """The forecast that `Forecast.as_json` wrote.

    Raises:
        StoreError: If a field is missing, unknown or of another kind.
    """
    try:
        fields = dict(content)  # type: ignore[call-overload]
        fields.pop("output_bytes", None)
        fields["num_failures"] = tuple(fields["num_failures"])
        if fields["binds"] not in get_args(Stage):
            raise ValueError(f"binds {fields['binds']!r}")
        return Forecast(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{source}: not a forecast ({error}). `muse extract --plan` makes a new one."
        ) from error


def keep_forecast(storage: Storage, forecast: Forecast) -> None:
    """Puts a forecast where the run that it is about will find it."""
    with writing(storage.location):
        storage.create()
        storage.write(FORECAST_FILE, json_bytes(forecast.as_json()))


def kept_forecast(storage: Storage) -> Forecast | None:
    """The forecast that `keep_forecast` wrote; None if there is none.

    Raises:
        StoreError: If it is something else.
    """
    source = f"{storage.location}/{FORECAST_FILE}"
    try:
        content = json.loads(storage.read(FORECAST_FILE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{source}: can't be read ({error}). Remove it.") from error
    return forecast_from_json(content, source=source)


def wilson_interval(share: float, num_tries: int, *, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share that was found (Wilson 1927); (0, 1) without a try."""
    if num_tries == 0:
        return 0.0, 1.0
    scale = 1 + z**2 / num_tries
    centre = share + z**2 / (2 * num_tries)
    spread = z * math.sqrt(share * (1 - share) / num_tries + (z / (2 * num_tries)) ** 2)
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
