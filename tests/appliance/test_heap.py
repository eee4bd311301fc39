"""The heap gives back what is free; in processes of their own, since it is the process's heap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance import heap

# Buffers that grow by a tenth, as those of a KV cache do, each freed when the next one is there,
# with small blocks between them that stay.
GROWING = """
import ctypes, sys
from pathlib import Path
from appliance.heap import bound_heap, trim_heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def anonymous_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1000

def filled(size):
    address = libc.malloc(size)
    ctypes.memset(address, 1, size)
    return address

if "bound" in sys.argv:
    bound_heap()
before, sizes = anonymous_mb(), [int(200_000 * 1.1**i) for i in range(30)]
libc.free(filled(30_000_000))  # the threshold is 30 MB now, unless it was set
buffers, pinned = [filled(sizes[0]) for _ in range(20)], []
for size in sizes[1:]:
    for i, buffer in enumerate(buffers):
        buffers[i] = filled(size)
        pinned.append(filled(1000))
        libc.free(buffer)
print(anonymous_mb() - before - 20 * sizes[-1] / 1e6)
for buffer in buffers:
    libc.free(buffer)
small = [filled(1000) for _ in range(30_000)]
for address in small[:-1]:
    libc.free(address)
held = anonymous_mb()
trim_heap()
print(held - anonymous_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_grown_buffers_leave_nothing_behind_and_what_is_free_is_given_back() -> None:
    if heap._function("mallopt") is None:
        pytest.skip("the C library is not glibc")

    def measured(*arguments: str) -> tuple[float, float]:
        done = subprocess.run(
            [sys.executable, "-c", GROWING, *arguments],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        left, given_back = map(float, done.stdout.split())
        return left, given_back

    left_unbound, _ = measured()
    left_bound, given_back = measured("bound")
    assert left_bound < 5 < left_unbound
    assert given_back > 15


def test_a_c_library_without_these_functions_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap, "_function", lambda name: None)
    heap.bound_heap()
    heap.trim_heap()
