"""The kernels' operators on CPU tensors, by kernels that g++ has built."""

import shutil
import sys
from collections.abc import Iterator

import pytest
import torch
from tests.host_kernels.host_build import HostBuild

from muse.head.scan import cuda_block, scan_kernels
from muse.pipeline.kernels import quick_gelu, row_norm

_CACHES = (scan_kernels._kernels, cuda_block._compiled, row_norm._compiled, quick_gelu._kernels)


@pytest.fixture(autouse=True)
def _own_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def host_build(tmp_path_factory: pytest.TempPathFactory) -> HostBuild:
    """Of all tests together, so that each kernel is built once."""
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no g++ on Linux, which builds the kernels for this machine")
    return HostBuild(compiler, tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def host_kernels(host_build: HostBuild, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostBuild]:
    """The operators of all kernels take CPU tensors."""
    for module in (scan_kernels, cuda_block, row_norm, quick_gelu):
        monkeypatch.setattr(module, "compile_kernels", host_build.compile_kernels)
    _forget_kernels()
    yield host_build
    _forget_kernels()


def _forget_kernels() -> None:
    for cache in _CACHES:
        cache.cache_clear()
