"""A process that keeps freed memory has its pages zeroed once, another one each time."""

import platform
import subprocess
import sys

import pytest

GROUPS = """
import resource, sys
import numpy as np
from muse.pipeline.decoding.kept_memory import keep_freed_memory

if sys.argv[1] == "keeps":
    assert keep_freed_memory() and keep_freed_memory()
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    group = [np.ones(2_000_000, np.uint8) for _ in range(8)]
    del group
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""
PAGES = 8 * 2_000_000 // 4096  # where pages are larger, fewer


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_group_s_memory_is_zeroed_once() -> None:
    assert faults_of("keeps")[0] > 0
    assert max(faults_of("keeps")[2:]) < PAGES // 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is glibc's way")
def test_without_it_is_zeroed_each_time() -> None:
    assert min(faults_of("frees")[2:]) > PAGES // 20


def faults_of(way: str) -> list[int]:
    """Page faults of six groups of arrays, one after the other."""
    command = [sys.executable, "-c", GROUPS, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]
