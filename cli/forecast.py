"""What ``muse extract --plan`` prints, and the forecast beside what a run really took."""

from typing import TYPE_CHECKING

from muse.cli.report import duration_text, print_json_line, print_line, print_note, size_text
from muse.errors import StoreError

if TYPE_CHECKING:
    from muse.pipeline.extract import ExtractConfig, ExtractSummary
    from muse.pipeline.forecasting.record import Forecast

_BUSY_BELOW = 0.8  # CPU seconds a second of decoding


def print_forecast(forecast: "Forecast", *, as_json: bool) -> None:
    """The forecast as aligned lines, or as one JSON object."""
    if as_json:
        print_json_line(forecast.as_json())
    else:
        for name, value in _lines(forecast).items():
            print_line(f"{name:<12} {value}")
    share = forecast.decode_cpu_share
    if share is not None and share < _BUSY_BELOW:
        print_note(
            f"decoders got {share:.0%} of a core each while they were measured: the machine or "
            "its disk is busy, and the times hold while it stays so."
        )


def comparison(
    forecast: "Forecast", *, seconds: float, array_bytes: int, num_failed: int
) -> list[str]:
    """Lines that set the forecast beside the run.

    Args:
        forecast: Made before the run.
        seconds: That the run took.
        array_bytes: That it added to the arrays.
        num_failed: Videos that failed in it, missing ones left out.
    """
    lines = {"time": _time(forecast, seconds), "output": _output(forecast, array_bytes, num_failed)}
    expected, fewest, most = forecast.num_failures
    lines["failures"] = f"forecast {expected:.0f} ({fewest:.0f} to {most:.0f}), found {num_failed}"
    return [f"{name:<12} {value}" for name, value in lines.items()]


class RunForecast:
    """The forecast that was kept for a run, if there is one, beside what the run then takes."""

    def __init__(self, config: "ExtractConfig") -> None:
        from muse.pipeline.forecasting.record import kept_forecast
        from muse.pipeline.storage.files import open_storage

        self._storage = open_storage(config.out)
        try:
            self._forecast = kept_forecast(self._storage)
        except StoreError as error:  # it is for people, and stops no run
            print_note(str(error))
            self._forecast = None
        self._bytes_before = self._array_bytes() if self._forecast else 0

    def compare(self, summary: "ExtractSummary") -> None:
        """Prints both; nothing where the forecast was about another run, such as an earlier one."""
        from muse.pipeline.store import FORECAST_FILE

        forecast = self._forecast
        if forecast is None or forecast.num_videos != summary.num_new_videos:
            return
        lines = comparison(
            forecast,
            seconds=summary.elapsed_seconds,
            array_bytes=self._array_bytes() - self._bytes_before,
            num_failed=summary.num_new_failures - forecast.num_missing,
        )
        for line in lines:
            print_line(line)
        self._storage.remove(FORECAST_FILE)  # it was about this run and no later one

    def _array_bytes(self) -> int:
        names = self._storage.list("features.zarr")
        return sum(self._storage.size(n) or 0 for n in names if not n.endswith("zarr.json"))


def _time(forecast: "Forecast", seconds: float) -> str:
    low, high = forecast.wall_low_seconds, forecast.wall_high_seconds
    return (
        f"forecast {duration_text(forecast.wall_seconds)} "
        f"({duration_text(low)} to {duration_text(high)}), took {duration_text(seconds)} "
        f"({_deviation(seconds, forecast.wall_seconds)})"
    )


def _output(forecast: "Forecast", array_bytes: int, num_failed: int) -> str:
    saved = num_failed * forecast.row_bytes
    less = f", less {_bytes(saved)} of failed videos" if saved else ""
    return (
        f"forecast {_bytes(forecast.output_bytes)}{less}, wrote {_bytes(array_bytes)} "
        f"({_deviation(array_bytes, forecast.output_bytes - saved)})"
    )


def _lines(forecast: "Forecast") -> dict[str, str]:
    expected, fewest, most = forecast.num_failures
    device = "GPU-hours" if forecast.encode_device == "cuda" else "core-hours"
    arrays = ", ".join(f"{n} {size_text(size)}" for n, size in forecast.array_bytes.items())
    free = "unknown" if forecast.free_bytes is None else size_text(forecast.free_bytes)
    present = forecast.num_videos - forecast.num_missing
    low, high = forecast.wall_low_seconds, forecast.wall_high_seconds
    thumbnails = forecast.thumbnail_bytes
    return {
        "videos": f"{present} to do, {forecast.num_missing} missing",
        "captions": f"{forecast.num_captions}",
        "frames": f"about {forecast.num_frames}, at most {forecast.max_frames}",
        "failures": f"about {expected:.0f} ({fewest:.0f} to {most:.0f}); "
        f"{forecast.num_sampled_failures} of {forecast.num_sampled} sampled videos failed",
        "output": f"{_bytes(forecast.output_bytes)} if every file decodes ({arrays}), "
        f"and about {size_text(forecast.table_bytes)} of tables and receipts"
        + (f", {size_text(thumbnails)} of thumbnails" if thumbnails else "")
        + (f", {size_text(forecast.frame_bytes)} of frames" if forecast.frame_bytes else ""),
        "free disk": free,
        "decoding": f"{_hours(forecast.decode_core_hours)} core-hours",
        "encoding": f"{_hours(forecast.encode_hours)} {device}",
        "wall time": f"{duration_text(forecast.wall_seconds)} "
        f"({duration_text(low)} to {duration_text(high)}, 80 % interval)",
        "peak memory": size_text(forecast.peak_memory_bytes),
        "binds": forecast.binds_because,
        "probe": f"{forecast.num_sampled} videos, {duration_text(forecast.probe_seconds)}",
    }


def _bytes(num_bytes: int) -> str:
    return f"{num_bytes:,} bytes ({size_text(num_bytes)})"


def _hours(hours: float) -> str:
    return f"{hours:.3g}"


def _deviation(actual: float, forecast: float) -> str:
    if not forecast:
        return "none was forecast" if actual else "as forecast"
    if actual == forecast:
        return "exact"
    return f"{(actual / forecast - 1) * 100:+.0f} %".replace("-", "−")
