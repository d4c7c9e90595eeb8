"""``muse doctor``: what of muse runs on this machine, and whether it computes what it should."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse.cli.flags import DeviceOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muse.head.scan.health import BackendHealth

EXIT_WRONG = 1
_PACKAGES = ("torch", "open_clip_torch", "av", "zarr", "ray", "peft", "mamba-ssm", "cuda-bindings")


def doctor(
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Say which scan runs here and why, and check each against the reference.

    Random data goes through every backend that can run, forward and backward;
    exits with 1 where one differs from the reference by more than rounding.
    """
    from muse.cli.report import print_json_line, print_line
    from muse.head.devices import device_name, resolve_device
    from muse.head.scan.health import backend_health

    where = resolve_device(device)  # type: ignore[arg-type]  # checked by resolve_device
    found = backend_health(where)
    machine = {"device": str(where), "name": device_name(where), "versions": _versions()}
    if as_json:
        scans = [dataclasses.asdict(each) | {"is_sound": each.is_sound} for each in found]
        print_json_line({**machine, "scan": scans})
    else:
        for line in _lines(machine, found):
            print_line(line)
    if not all(each.is_sound for each in found):
        raise typer.Exit(EXIT_WRONG)


def _lines(machine: dict[str, Any], found: "Sequence[BackendHealth]") -> list[str]:
    versions = [f"{name} {version or '-'}" for name, version in machine["versions"].items()]
    chosen = next(each.backend for each in found if each.is_chosen)
    return [
        f"{'versions':<10} {', '.join(versions)}",
        f"{'device':<10} {machine['name']}",
        f"{'scan':<10} auto is {chosen}{_why(machine['device'], chosen, found)}",
        *(f"{'':<10} {each.backend:<10} {_words(each)}" for each in found),
    ]


def _why(device: str, chosen: str, found: "Sequence[BackendHealth]") -> str:
    """The rule of `muse.head.scan.select` in words."""
    if chosen == "cuda":
        return ": the fastest where it runs"
    if device == "cpu":
        return ": the fastest without a GPU"
    (kernel,) = (each for each in found if each.backend == "cuda")
    return f", because cuda can't run: {kernel.why_not}"


def _words(health: "BackendHealth") -> str:
    from muse.head.scan.health import LARGEST_ERROR

    if health.why_not is not None:
        return f"can't run: {health.why_not}"
    verdict = "agrees with" if health.is_sound else "DIFFERS FROM"
    return (
        f"{verdict} the reference: worst relative error {health.error:.0e} of {LARGEST_ERROR:.0e} "
        f"allowed; {health.milliseconds:.1f} ms"
    )


def _versions() -> dict[str, str | None]:
    from importlib import metadata

    import muse

    def version_of(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {"muse": muse.__version__, **{name: version_of(name) for name in _PACKAGES}}
