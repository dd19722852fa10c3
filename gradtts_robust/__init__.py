"""Few-shot Grad-TTS voice adaptation that withstands dirty data, and the tools to measure how well.

Importing this is cheap: torch is imported when something first needs it.
"""
from __future__ import annotations

import importlib

__version__ = "0.1.0"
__all__ = ["Objective", "load", "speaker_encoder"]

_LAZY = {
    "load": ("gradtts_robust.training.voice", "load"),
    "speaker_encoder": ("gradtts_robust.speech.speaker", "speaker_encoder"),
    "Objective": ("gradtts_robust.losses", "Objective"),
}


def __getattr__(name: str):
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
