"""The arithmetic of this CPU for 8-bit integers: it decides the default precision and which int8 vectors agree."""

from __future__ import annotations

import os
from functools import lru_cache

from recserve_client.cpu_info import cpu_info

_DOT_PRODUCT_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


@lru_cache(maxsize=1)
def flags() -> frozenset[str]:
    """The CPU flags of /proc/cpuinfo."""
    return frozenset(cpu_info("flags").split())


def vector_flags() -> list[str]:
    """The CPU flags of vector arithmetic, in alphabetical order."""
    return sorted(flag for flag in flags() if flag.startswith(("avx", "amx", "fma")))


def model_name() -> str:
    """The CPU's name as /proc/cpuinfo gives it."""
    return cpu_info("model name") or "unknown"


def has_int8_dot_product() -> bool:
    """Whether 8-bit products are summed into 32 bits without saturating (AVX-512 VNNI, AVX-VNNI, AMX)."""
    return bool(flags() & _DOT_PRODUCT_FLAGS)


def int8_arithmetic() -> str:
    """Name of the arithmetic an int8 encoder runs with here: ``vnni`` or ``avx2``.

    Without dot products the 16-bit intermediate saturates, so the same file gives other vectors.
    """
    return "vnni" if has_int8_dot_product() else "avx2"


def usable_cores() -> int:
    """Number of cores this process may run on."""
    return len(os.sched_getaffinity(0))
