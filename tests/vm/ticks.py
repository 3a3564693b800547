"""How fast this machine's processor counts, which an emulated one repeats."""

from __future__ import annotations

import ctypes
import mmap
import platform
import time

_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_MEASURED_S = 0.05


def tick_words() -> str:
    """Return the kernel's word for the processor's ticks; empty where they are another processor's.

    On a busy machine the guest's kernel, which measures them against an emulated timer, takes its processor for up to
    ten times too slow, and its seconds pass ten times too soon.
    """
    if platform.machine() != "x86_64":
        return ""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(_RDTSC)
        place = ctypes.c_char.from_buffer(code)
        ticks = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
        from_ns, from_ticks = time.monotonic_ns(), ticks()
        time.sleep(_MEASURED_S)
        to_ns, to_ticks = time.monotonic_ns(), ticks()
        del place
    return f"tsc_early_khz={(to_ticks - from_ticks) * 1000000 // (to_ns - from_ns)}"
