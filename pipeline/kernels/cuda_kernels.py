"""CUDA kernels from their source, compiled when first used: no compiler is needed to install.

NVRTC, which comes with torch, compiles for the GPU at hand; what it makes is kept in a folder, so
that the next process loads it. The only importer of cuda.bindings. Knows nothing of scans.
"""

import contextlib
import ctypes
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse.errors import MuseError

CACHE_VARIABLE = "MUSE_KERNEL_CACHE"
_HERE = Path(__file__).parent
INSTRUCTIONS, VALUES = _HERE / "ptx.cuh", _HERE / "values.cuh"
"""They stand before every source."""
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""As `VALUES` numbers them."""
_INSTEAD = "Use --device cpu, or for a head's scan alone --scan cpu"


@cache
def why_unavailable() -> str | None:
    """The reason why no kernel can be compiled here, or None if one can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()} is older than compute capability 8.0"
    try:
        from cuda.bindings import driver, nvrtc

        driver.cuDriverGetVersion()  # libraries are loaded at the first call
        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        return f"NVRTC can't be loaded ({error})"
    return None


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Of a GPU; 0 of any other device."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


class Kernel:
    """A compiled kernel of one device."""

    def __init__(self, function: Any, module: Any, device: torch.device) -> None:
        self._function = function
        self._module = module  # kept as long as its function
        self._device = device
        self._context = _context(device)
        self._index = torch.cuda.current_device() if device.index is None else device.index

    def __call__(self, *arguments: Any, blocks: int, threads: int, rows: int = 1) -> None:
        """Runs it on its device's current stream.

        Args:
            arguments: Tensors, None for a null pointer, or ctypes values.
            blocks: Along x.
            threads: Of a block, along x.
            rows: Of blocks, along y.
        """
        values = [_as_ctypes(argument) for argument in arguments]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        if self._index == torch.cuda.current_device():
            self._launch(addresses, (blocks, rows), threads)
        else:
            with torch.cuda.device(self._device):
                self._launch(addresses, (blocks, rows), threads)

    def _launch(self, addresses: Any, grid: tuple[int, int], threads: int) -> None:
        from cuda.bindings import driver

        stream = torch.cuda.current_stream(self._device).cuda_stream
        # A thread that has not used CUDA has no context, though torch says that it has a device.
        _checked(driver.cuCtxSetCurrent(self._context))
        _checked(
            driver.cuLaunchKernel(
                self._function, *grid, 1, threads, 1, 1, 0, stream,
                ctypes.addressof(addresses), 0,
            )
        )  # fmt: skip


def compile_kernels(
    sources: Sequence[Path], names: Sequence[str], macros: Mapping[str, int], device: torch.device
) -> tuple[Kernel, ...]:
    """Kernels of some source files, one behind the other, for the architecture of a device.

    Raises:
        MuseError: If it can't be compiled or loaded, with the compiler's words.
    """
    from cuda.bindings import driver

    major, minor = torch.cuda.get_device_capability(device)
    options = (
        f"--gpu-architecture=sm_{major}{minor}",
        "--use_fast_math",
        *(f"-D{name}={value}" for name, value in macros.items()),
    )
    text = b"".join(source.read_bytes() for source in (INSTRUCTIONS, VALUES, *sources))
    with torch.cuda.device(device):
        _checked(driver.cuCtxSetCurrent(_context(device)))
        module = _module(sources[-1].stem, text, options)
        functions = [_checked(driver.cuModuleGetFunction(module, n.encode()))[0] for n in names]
    return tuple(Kernel(function, module, device) for function in functions)


@cache
def _context(device: torch.device) -> Any:
    """Torch's, of a device."""
    from cuda.bindings import driver

    torch.cuda.synchronize(device)  # it is made
    index = torch.cuda.current_device() if device.index is None else device.index
    (ordinal,) = _checked(driver.cuDeviceGet(index))
    return _checked(driver.cuDevicePrimaryCtxRetain(ordinal))[0]


def _module(name: str, text: bytes, options: tuple[str, ...]) -> Any:
    """Loaded from the folder, or compiled and put there; a damaged file is replaced."""
    from cuda.bindings import driver, nvrtc

    versions = (_checked(nvrtc.nvrtcVersion()), torch.version.cuda)
    key = hashlib.sha256(repr((text, options, versions)).encode()).hexdigest()[:32]
    path = _cache_folder() / f"{name}-{key}.cubin"
    with contextlib.suppress(OSError):
        status, module = driver.cuModuleLoadData(path.read_bytes())
        if int(status) == 0:
            return module
    binary = _compiled(f"{name}.cu", text, options)
    _keep(path, binary)
    (module,) = _checked(driver.cuModuleLoadData(binary))
    return module


def _keep(path: Path, binary: bytes) -> None:
    """Writes a file whole, or not at all: it only costs the next process a compilation."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(binary)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)


def _compiled(name: str, text: bytes, options: tuple[str, ...]) -> bytes:
    from cuda.bindings import nvrtc

    (program,) = _checked(nvrtc.nvrtcCreateProgram(text, name.encode(), 0, [], []))
    try:
        encoded = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            (size,) = _checked(nvrtc.nvrtcGetProgramLogSize(program))
            log = b" " * size
            _checked(nvrtc.nvrtcGetProgramLog(program, log))
            words = log.decode(errors="replace").strip("\0 \n")[:500]
            raise MuseError(f"{name} can't be compiled for this GPU ({words}). {_INSTEAD}.")
        (size,) = _checked(nvrtc.nvrtcGetCUBINSize(program))
        binary: bytes = b" " * size
        _checked(nvrtc.nvrtcGetCUBIN(program, binary))
        return binary
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _cache_folder() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "muse" / "kernels"


def _checked(found: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call gave behind its status.

    Raises:
        MuseError: If the status is an error.
    """
    status, *values = found
    if int(status) != 0:
        raise MuseError(f"CUDA: {status.name}. {_INSTEAD}, or see if the driver is too old.")
    return tuple(values)


def _as_ctypes(argument: Any) -> Any:
    if argument is None:
        return ctypes.c_void_p(0)
    return ctypes.c_void_p(argument.data_ptr()) if isinstance(argument, Tensor) else argument
