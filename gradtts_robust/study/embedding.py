"""Pictures and sounds as parts of an HTML text, so that a page is one file."""
from __future__ import annotations

import base64
import io
import re
from functools import lru_cache
from pathlib import Path

from .figures import INK

SOUND_TYPES = {"MP3": "audio/mpeg", "OGG": "audio/ogg", "FLAC": "audio/flac", "WAV": "audio/wav"}


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a `data:` address of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def inline_svg(svg: str, *, name: str) -> str:
    """A matplotlib SVG to be put into HTML: without its head, scaled to the page, in the page's text colour.

    Args:
        name: unique in the page, put before all ids.
    """
    body = svg[svg.index("<svg"):]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    return body.replace(INK, "currentColor").replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


@lru_cache(maxsize=1)
def sound_format() -> str:
    """The smallest format that this libsndfile writes and browsers play."""
    import soundfile

    known = soundfile.available_formats()
    return "MP3" if "MP3" in known else "OGG" if "VORBIS" in soundfile.available_subtypes("OGG") else "FLAC"


class SoundShelf:
    """Sounds for one page, within a budget.

    Args:
        budget: bytes of the page that sounds may take.
    """

    def __init__(self, budget: int):
        self.left, self.left_out = budget, 0

    def __call__(self, path: Path) -> str:
        """A `data:` address for a sound file, or "" where it is missing, unreadable or over the budget."""
        try:
            uri = encode_sound(path)
        except (OSError, ValueError, RuntimeError):
            return ""
        if len(uri) > self.left:
            self.left_out += 1
            return ""
        self.left -= len(uri)
        return uri


def encode_sound(path: Path) -> str:
    """A sound file compressed, as a `data:` address; where the compressor fails, as WAV."""
    import soundfile

    from ..speech.audio import SAMPLE_RATE, load_audio

    wave = load_audio(path).clip(-1, 1)
    for kind in dict.fromkeys((sound_format(), "WAV")):
        target = io.BytesIO()
        try:
            soundfile.write(target, wave, SAMPLE_RATE, format=kind)
        except (soundfile.LibsndfileError, RuntimeError):
            continue
        return data_uri(target.getvalue(), SOUND_TYPES[kind])
    raise ValueError(f"{path}: cannot be compressed for the report")
