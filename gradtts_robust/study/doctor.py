"""What this machine has and what it lacks."""
from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

GIB = 2**30
LEAST_DISK = 2 * GIB
LEAST_MEMORY = 4 * GIB


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: of the thing.
        ok: it is there and works.
        needed: nothing works without it; the rest narrows what can be done.
        text: what was found, or what to do.
    """

    name: str
    ok: bool
    needed: bool
    text: str


def examine() -> list[Finding]:
    """Looks at interpreter, packages, hardware, voices, weights, disk and memory; a look that fails becomes a finding."""
    looks: list[tuple[str, bool, Callable[[], tuple[bool, str]]]] = [
        ("python", True, _python), ("torch and torchaudio", True, _torch), ("processor", True, _processor), ("GPU", False, _gpu),
        ("espeak-ng", False, _espeak), ("resemblyzer", True, _resemblyzer), ("ecapa", False, _ecapa), ("base", False, _base),
        ("vocoder", False, _vocoder), ("disk", True, _disk), ("memory", True, _memory),
    ]
    found = []
    for name, needed, look in looks:
        try:
            ok, text = look()
        except Exception as error:  # a doctor must survive whatever is broken
            kind = "" if isinstance(error, (ValueError, FileNotFoundError)) else f"{type(error).__name__}: "
            ok, text = False, " ".join(f"{kind}{error}".split())
        found.append(Finding(name, ok, needed, text))
    return found


def _python() -> tuple[bool, str]:
    version = platform.python_version()
    return (3, 10) <= sys.version_info[:2] < (3, 13), f"{version}; 3.10 to 3.12 are supported"


def _torch() -> tuple[bool, str]:
    versions = [metadata.version(name).split("+")[0] for name in ("torch", "torchaudio")]
    import torchaudio  # noqa: F401  a pair that does not match fails here

    same = versions[0].split(".")[:2] == versions[1].split(".")[:2]
    return same, f"{versions[0]} and {versions[1]}" + ("" if same else ": install the same version of both")


def _processor() -> tuple[bool, str]:
    from ..training.setup import cpu_multiplies_bf16

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return True, f"{cores} cores, " + ("multiplies bf16 itself" if cpu_multiplies_bf16() else "no bf16 instructions: trains in float32")


def _gpu() -> tuple[bool, str]:
    import torch

    if not torch.cuda.is_available():
        return False, "none: adaptation and synthesis run on the CPU"
    memory = torch.cuda.get_device_properties(0).total_memory / GIB
    return True, f"{torch.cuda.get_device_name()}, {memory:.0f} GiB"


def _espeak() -> tuple[bool, str]:
    from ..speech.espeak import available

    if not available():
        return False, "not installed, so no embedded corpus and no demo: pip install 'gradtts-robust[voices]'"
    return True, f"espeakng-loader {metadata.version('espeakng-loader')}"


def _resemblyzer() -> tuple[bool, str]:
    from ..speech.resemblyzer import load_network

    load_network()
    return True, f"{metadata.version('resemblyzer')}, with its weights"


def _ecapa() -> tuple[bool, str]:
    from ..speech.ecapa_small import load_judge, shipped_judge

    path = shipped_judge()
    return True, f"{path}: {load_judge(path).config.dim} dimensions"


def _base() -> tuple[bool, str]:
    from ..training.adapt import shipped_base
    from ..training.checkpoint import load_checkpoint

    path = shipped_base()
    checkpoint = load_checkpoint(path)
    return True, f"{path}: {len(checkpoint.speakers)} speakers, {checkpoint.step} steps"


def _vocoder() -> tuple[bool, str]:
    from ..speech.vocoder import load_vocoder, shipped_vocoder

    path = shipped_vocoder()
    vocoder = load_vocoder(path)
    return True, f"{path}: {sum(weights.numel() for weights in vocoder.generator.parameters()) / 1e6:.1f} million parameters"


def _disk() -> tuple[bool, str]:
    free = shutil.disk_usage(Path.cwd()).free
    needed = "" if free >= LEAST_DISK else f"; {LEAST_DISK / GIB:.0f} GiB are needed"
    return free >= LEAST_DISK, f"{free / GIB:.0f} GiB free here{needed}"


def _memory() -> tuple[bool, str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total >= LEAST_MEMORY, f"{total / GIB:.0f} GiB" + ("" if total >= LEAST_MEMORY else f"; {LEAST_MEMORY / GIB:.0f} GiB are needed")
