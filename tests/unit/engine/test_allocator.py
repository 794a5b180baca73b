"""Freed memory goes back to the system, and threads share few heaps: where glibc is, for real."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import subprocess
import sys
import weakref

import psutil
import pytest

from embatch.engine import allocator

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps heaps of this kind")
SIZE, COUNT = 1024, 1 << 16

HEAPS = """
import ctypes, sys, threading
from embatch.engine.allocator import few_heaps

if sys.argv[1] != "any":
    few_heaps(int(sys.argv[1]))
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together, found = threading.Barrier(8), set()

def take():
    together.wait()
    found.add(libc.malloc(ctypes.c_size_t(1000)) >> 26)  # glibc aligns heaps of threads to 64 MiB
    together.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(found))
"""

APART = """
import ctypes
from embatch.engine.allocator import keep_large_blocks_apart

class Info(ctypes.Structure):  # mallinfo(3)
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks".split()] + [("rest", ctypes.c_int * 6)]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes, libc.mallinfo.restype = ctypes.c_void_p, [ctypes.c_void_p], Info

def is_apart():
    before = libc.mallinfo().hblks
    block = libc.malloc(ctypes.c_size_t(2 << 20))
    found = libc.mallinfo().hblks > before
    libc.free(block)
    return found

print(keep_large_blocks_apart(), is_apart(), is_apart())
"""


@GLIBC
def test_what_was_freed_goes_back() -> None:
    """Pages below one block that is still in use stay with the process until they are given back."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(ctypes.c_size_t(SIZE)) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    *most, last = blocks
    for block in most:
        libc.free(block)
    before = psutil.Process().memory_info().rss
    allocator.give_back()
    after = psutil.Process().memory_info().rss
    libc.free(last)
    assert before - after > SIZE * COUNT // 2


def test_what_only_refers_to_itself_is_let_go() -> None:
    """An engine and the error it failed with, say."""

    class Engine:
        error: object = None

    engine = Engine()
    engine.error = [engine]
    gone = weakref.ref(engine)
    gc.disable()
    try:
        del engine
        allocator.give_back()
        assert gone() is None
    finally:
        gc.enable()


def heaps(most: str) -> int:
    """Heaps that eight threads take memory from at the same time, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", HEAPS, most], check=True, capture_output=True, text=True, timeout=60
    )
    return int(done.stdout)


@GLIBC
def test_threads_share_few_heaps() -> None:
    """Without a bound eight threads have more."""
    assert heaps("2") <= 2 < heaps("any")


def apart(**environment: str) -> str:
    """Whether large blocks are kept apart, and whether a first and a second one are: in a process of its own."""
    settings = {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}
    clean = {name: value for name, value in os.environ.items() if name not in settings}
    command = [sys.executable, "-c", APART]
    done = subprocess.run(
        command, env=clean | environment, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


@GLIBC
def test_large_blocks_stay_apart() -> None:
    """The first one that is freed would teach glibc to keep the next among the small ones."""
    assert apart() == "True True True"


@GLIBC
@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_MMAP_THRESHOLD_": "67108864"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=67108864"}],
)
def test_what_the_environment_says_of_malloc_holds(environment: dict[str, str]) -> None:
    """Whoever set thresholds keeps them."""
    assert apart(**environment) == "False False False"


def test_other_systems_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no such library, or one without these functions."""

    def missing(_name: object) -> object:
        raise TypeError("no default library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    allocator.few_heaps(2)
    allocator.give_back()
    assert not allocator.keep_large_blocks_apart()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    allocator.few_heaps(2)
    allocator.give_back()
    assert not allocator.keep_large_blocks_apart()
