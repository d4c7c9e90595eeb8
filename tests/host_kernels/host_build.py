"""The CUDA kernels built by g++ for this machine, in place of those that NVRTC builds for a GPU.

The sources are the very files; what stands before them is ``cuda_on_host.h`` in place of
``ptx.cuh``. Each launch runs twice, with the threads and blocks in opposite orders, and has to give
the same bits; an access outside the arrays that it was given ends it. Knows nothing of scans.
"""

import ctypes
import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse.pipeline.kernels.cuda_kernels import VALUES

_HERE = Path(__file__).parent
_WORDS, _RUNNER = _HERE / "cuda_on_host.h", _HERE / "block_runner.cpp"
_FLAGS = ("-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-Wall", "-Werror")
# Fibers jump from stack to stack, which the fortified library takes for a mistake.
_OF_RUNNER = ("-U_FORTIFY_SOURCE",)
# The kernels read vectors of other types' values, unroll by pragmas, and compare unsigned indices.
_OF_CUDA = ("-fno-strict-aliasing", "-Wno-unknown-pragmas", "-Wno-sign-compare")
# Each access and each shared array is announced, to block_runner.cpp in place of g++'s library.
_WATCHED = (
    "-fsanitize=address", "--param", "asan-stack=0",
    "--param", "asan-instrumentation-with-call-threshold=0",
)  # fmt: skip


class KernelError(AssertionError):
    """A kernel did what no kernel may do; the message says what and where."""


class HostKernel:
    """A kernel of a built library; called as `muse.pipeline.kernels.cuda_kernels.Kernel` is."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self._library, self._name = library, name

    def __call__(self, *arguments: Any, blocks: int, threads: int, rows: int = 1) -> None:
        """Runs it on CPU tensors.

        Raises:
            KernelError: If it takes others, accesses what is outside of them, never ends, or races.
        """
        tensors = {n: its for n, its in enumerate(arguments) if isinstance(its, Tensor)}
        before = {n: tensor.clone() for n, tensor in tensors.items()}
        self._run(arguments, (blocks, rows), threads, is_backwards=False)
        found = {n: _bits(tensor) for n, tensor in tensors.items()}
        for n, tensor in tensors.items():
            if not torch.equal(found[n], _bits(before[n])):  # an output
                tensor.copy_(before[n])
        self._run(arguments, (blocks, rows), threads, is_backwards=True)
        for n, tensor in tensors.items():
            if not torch.equal(_bits(tensor), found[n]):
                raise KernelError(
                    f"{self._name}: argument {n} has other bits when its threads run in the "
                    "opposite order: threads race."
                )

    def _run(
        self, arguments: Sequence[Any], grid: tuple[int, int], threads: int, *, is_backwards: bool
    ) -> None:
        values = [_as_ctypes(argument) for argument in arguments]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = (ctypes.c_size_t * len(values))(*map(ctypes.sizeof, values))
        self._library.forget_arrays()
        for number, argument in enumerate(arguments):
            if isinstance(argument, Tensor):
                name = f"argument {number}".encode()
                size = ctypes.c_size_t(_size_bytes(argument))
                self._library.allow_array(ctypes.c_void_p(argument.data_ptr()), size, name)
        self._library.run_backwards(int(is_backwards))
        self._library[f"run_{self._name}"](addresses, sizes, len(values), *grid, threads)
        words = self._library.last_error().decode()
        if words:
            raise KernelError(f"{self._name}: {words}")


class HostBuild:
    """Builds libraries into a folder, each once."""

    def __init__(self, compiler: str, folder: Path) -> None:
        self._compiler, self._folder = compiler, folder
        self._runner = folder / "block_runner.o"
        self._libraries: dict[str, ctypes.CDLL] = {}

    def compile_kernels(
        self,
        sources: Sequence[Path],
        names: Sequence[str],
        macros: Mapping[str, int],
        device: torch.device,
    ) -> tuple[HostKernel, ...]:
        """As `muse.pipeline.kernels.cuda_kernels.compile_kernels`, for the CPU."""
        assert device.type == "cpu"
        text = _text_of(sources, names)
        defined = [f"-D{name}={value}" for name, value in macros.items()]
        key = hashlib.sha256(repr((text, defined)).encode()).hexdigest()[:16]
        if key not in self._libraries:
            self._libraries[key] = self._built(f"{sources[-1].stem}-{key}", text, defined)
        return tuple(HostKernel(self._libraries[key], name) for name in names)

    def _built(self, name: str, text: str, defined: list[str]) -> ctypes.CDLL:
        if not self._runner.exists():
            self._compile(*_OF_RUNNER, "-c", str(_RUNNER), "-o", str(self._runner))
        source, part = self._folder / f"{name}.cpp", self._folder / f"{name}.o"
        library = self._folder / f"{name}.so"
        source.write_text(text, encoding="utf-8")
        self._compile(*_OF_CUDA, *_WATCHED, *defined, "-c", str(source), "-o", str(part))
        self._compile("-shared", "-Wl,-Bsymbolic", str(part), str(self._runner), "-o", str(library))
        loaded = ctypes.CDLL(str(library))
        loaded.last_error.restype = ctypes.c_char_p
        return loaded

    def _compile(self, *arguments: str) -> None:
        command = [self._compiler, *_FLAGS, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]


def _text_of(sources: Sequence[Path], names: Sequence[str]) -> str:
    """The words, the sources under names that no other library has, and a way into each kernel."""
    own = [source.read_text(encoding="utf-8") for source in (VALUES, *sources)]
    entries = [f"HOST_KERNEL({name})\n" for name in names]
    words = _WORDS.read_text(encoding="utf-8")
    return "".join([words, "namespace {\n", *own, "}\n", *entries])


def _as_ctypes(argument: Any) -> Any:
    if argument is None:
        return ctypes.c_void_p(0)
    return ctypes.c_void_p(argument.data_ptr()) if isinstance(argument, Tensor) else argument


def _bits(tensor: Tensor) -> Tensor:
    """A copy of its bytes, so that what is no number is equal to itself."""
    return tensor.contiguous().clone().view(-1).view(torch.uint8)


def _size_bytes(tensor: Tensor) -> int:
    """From its first element to behind its last."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.element_size()
