"""What ``muse extract`` prints of its speed: a table of the stages and the sentence below it."""

from typing import TYPE_CHECKING, Any

from rich.table import Table

from muse.cli.report import duration_text, print_line, print_table, size_text
from muse.pipeline.speed.wording import rate_text, speed_sentence

if TYPE_CHECKING:
    from muse.pipeline.speed.report import SpeedReport, StageSpeed

_LIMITS = {"cores": "cores", "matrix": "matrix products", "pcie": "PCIe", "disk": "disk"}
_COLUMNS = ("stage", "workers", "busy", "achieved", "bound", "share", "")


def print_speed(report: "SpeedReport") -> None:
    """The table and the sentence."""
    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("stage", "") else "right")
    for speed in report.stages:
        table.add_row(*_row(speed))
    if report.cores_share is not None:
        busy = report.cores_share * report.workforce.num_cores * report.wall_seconds
        share = f"{report.cores_share:.0%}"
        table.add_row("cores", str(report.workforce.num_cores), _seconds(busy), "", "", share, "")
    print_table(table)
    if report.workforce.decoder_because:
        print_line(report.workforce.decoder_because)
    print_line(
        f"{rate_text(report.videos_per_second)} videos/s, {_frame_rate(report)} frames/s "
        f"over {duration_text(report.wall_seconds)}, after {duration_text(report.startup_seconds)} "
        "of starting up"
    )
    limits = ", ".join(f"{_LIMITS[name]} {rate_text(v)}" for name, v in report.limits.items())
    print_line(f"this machine allows, in videos/s: {limits}")
    print_line(speed_sentence(report))


def speed_json(report: "SpeedReport | None") -> dict[str, Any] | None:
    """The same for a program, while a run goes on and at its end; None if nothing was done yet."""
    if report is None:
        return None
    return {**report.as_json(), "because": speed_sentence(report)}


def shares_text(report: "SpeedReport") -> str:
    """``decode 96% (binds), encode 41%, write 3%``: of their time, while a run goes on."""
    shares = [
        f"{speed.stage} {speed.share:.0%}{' (binds)' if speed.stage == report.binds else ''}"
        for speed in report.stages
    ]
    return ", ".join(shares)


def _row(speed: "StageSpeed") -> tuple[str, ...]:
    unit = "captions/s" if speed.stage == "captions" else "videos/s"
    bound = "" if speed.bound is None else f"{rate_text(speed.bound)} {unit}"
    return (
        speed.stage,
        str(speed.num_workers),
        _seconds(speed.busy_seconds),
        f"{rate_text(speed.achieved)} {unit}",
        bound,
        f"{speed.share:.0%}",
        _detail(speed),
    )


def _detail(speed: "StageSpeed") -> str:
    """What else its busy time tells of this machine."""
    cores = speed.cores_while_busy
    if speed.stage == "write":
        return f"{size_text(speed.bytes_per_second)}/s" if speed.num_bytes else ""
    parts = [] if cores is None else [f"{cores:.2g} cores a worker"]
    if speed.num_on_gpu:
        parts.append(f"{speed.num_on_gpu} by NVDEC")
    return ", ".join(parts)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _frame_rate(report: "SpeedReport") -> str:
    return rate_text(report.num_frames / report.wall_seconds if report.wall_seconds else 0.0)
