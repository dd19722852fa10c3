"""The espeak-ng library of the `espeakng-loader` wheel through ctypes, and the process that speaks with it.

`python -m gradtts_robust.speech.espeak_library` reads one JSON request `{voice, rate, pitch, range, items: [{text, seed}]}` on
stdin and answers every item with a line of JSON (`{samples, phonemes: [[IPA, text position, sample], ...]}`) and its 16-bit samples.
espeak keeps oscillator, noise and smoothing state from one utterance to the next that nothing resets, not even a new
initialisation. So each item is spoken in a fork of the untouched process: the same item gives the same samples, whatever else was spoken.
"""
from __future__ import annotations

import ctypes
import json
import os
import sys
from functools import lru_cache
from pathlib import Path

MISSING = "espeak-ng is not installed: pip install 'gradtts-robust[voices]'"
SAMPLE_RATE = 22050
SYNCHRONOUS, PHONEME_EVENTS, PHONEME_IPA, DO_NOT_EXIT = 2, 1, 2, 0x8000
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
LIST_TERMINATED, PHONEME = 0, 7
UTF8 = 1


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int), ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int), ("sample", ctypes.c_int), ("user_data", ctypes.c_void_p), ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def data_path() -> Path:
    """Folder of espeak's voices and dictionaries.

    Raises:
        ValueError: the `voices` extra is not installed.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise ValueError(MISSING) from None
    return Path(espeakng_loader.get_data_path())


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL:
    """The library, initialised, speaking en-us; one per process, not safe to call from two threads at once.

    Raises:
        ValueError: the `voices` extra is not installed, or its library does not start here.
    """
    data = data_path()
    import espeakng_loader
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise ValueError(f"espeak-ng does not load ({error}); reinstall it: pip install 'gradtts-robust[voices]'") from None
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, os.fsencode(data), PHONEME_EVENTS | PHONEME_IPA | DO_NOT_EXIT)
    if rate != SAMPLE_RATE or library.espeak_SetVoiceByName(b"en-us") != 0:
        raise ValueError(f"espeak-ng does not start with the data in {data}; reinstall it: pip install 'gradtts-robust[voices]'")
    return library


def transcribe(text: str) -> str:
    """IPA of `text` with `_` between phonemes, spaces between words."""
    library = load_library()
    source = ctypes.c_char_p(text.replace("\0", " ").encode())
    pointer = ctypes.pointer(source)
    clauses = []
    while source.value:
        clause = library.espeak_TextToPhonemes(pointer, UTF8, PHONEME_IPA | ord("_") << 8)
        clauses.append((clause or b"").decode("utf-8", "replace"))
    return " ".join(clauses)


def synthesize(text: str, seed: int) -> tuple[bytes, list[list]]:
    """Speaks `text` with the voice set before: 16-bit samples and [IPA, text position from 1, start sample] for every phoneme."""
    library = load_library()
    samples: list[bytes] = []
    phonemes: list[list] = []

    def receive(wave, count, events):
        if wave and count > 0:
            samples.append(ctypes.string_at(wave, 2 * count))
        index = 0
        while events[index].type != LIST_TERMINATED:
            event = events[index]
            if event.type == PHONEME:
                name = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0].decode("utf-8", "ignore")
                phonemes.append([name, event.text_position, event.sample])
            index += 1
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
    encoded = text.replace("\0", " ").encode()
    status = library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, UTF8, None, None)
    assert status == 0, status
    return b"".join(samples), phonemes


def _answer(item: dict) -> None:
    samples, phonemes = synthesize(item["text"], item["seed"])
    header = json.dumps({"samples": len(samples) // 2, "phonemes": phonemes})
    sys.stdout.buffer.write(header.encode() + b"\n" + samples)
    sys.stdout.buffer.flush()


def main() -> None:
    """Serves one request from stdin, see the module's docstring."""
    request = json.load(sys.stdin)
    library = load_library()
    assert library.espeak_SetVoiceByName(request["voice"].encode()) == 0, request["voice"]
    for parameter, value in ((RATE, request["rate"]), (PITCH, request["pitch"]), (RANGE, request["range"]), (VOLUME, 100)):
        library.espeak_SetParameter(parameter, value, 0)
    for item in request["items"]:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _answer(item)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"espeak-ng failed on {item['text']!r}")


if __name__ == "__main__":
    main()
