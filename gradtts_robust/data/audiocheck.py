"""What is wrong with an audio file, found without decoding the whole of it."""
from __future__ import annotations

import os
import struct


def audio_problem(path: str) -> str:
    """One line saying why an audio file cannot be used, or nothing.

    A FLAC file that was cut off keeps its header's length, so its last sample must be reached; libsndfile shortens a
    cut WAV file silently, so its header is compared with its size.
    """
    import soundfile

    if not os.path.isfile(path):
        return f"{path}: no such audio file; correct the path or remove the utterance"
    if not os.path.getsize(path):
        return f"{path}: the audio file is empty; fetch it again or remove the utterance"
    try:
        with soundfile.SoundFile(path) as audio:
            if not audio.frames:
                return f"{path}: the audio file holds no samples; fetch it again or remove the utterance"
            audio.seek(audio.frames - 1)
            whole = len(audio.read(1)) == 1 and not _wav_bytes_missing(path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        return f"{path}: not readable as audio ({' '.join(str(error).split())}); fetch it again or remove the utterance"
    return "" if whole else f"{path}: the audio file is truncated; fetch it again or remove the utterance"


def _wav_bytes_missing(path: str) -> bool:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        riff = file.read(12)
        if riff[:4] != b"RIFF" or riff[8:12] != b"WAVE":
            return False
        while len(chunk := file.read(8)) == 8:
            name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"data":
                # writers to a pipe cannot know the length and leave the largest one
                return length < 0xFFFFFF00 and file.tell() + length > size
            file.seek(length + length % 2, os.SEEK_CUR)
    return True
