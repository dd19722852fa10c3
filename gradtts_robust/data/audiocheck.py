"""What is wrong with an audio file, found without decoding the whole of a compressed one."""
from __future__ import annotations

import os


def audio_problem(path: str) -> str:
    """One line saying why an audio file cannot be used, or nothing: missing, empty, unreadable, too short or cut off.

    A compressed file that was cut off keeps its header's length, so only its last sample is reached. A WAV file is read
    whole, which costs little: libsndfile opens a cut one without a word.
    """
    import soundfile

    from ..speech.audio import load_audio

    if not os.path.isfile(path):
        return f"{path}: no such audio file; correct the path or remove the utterance"
    if not os.path.getsize(path):
        return f"{path}: the audio file is empty; fetch it again or remove the utterance"
    try:
        with soundfile.SoundFile(path) as audio:
            if audio.frames and audio.format not in ("WAV", "WAVEX"):
                audio.seek(audio.frames - 1)
                return "" if len(audio.read(1)) else f"{path}: the audio file is cut off; fetch it again or remove the utterance"
            rate = audio.samplerate
        load_audio(path, sample_rate=rate)
    except ValueError as error:
        return str(error)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        return f"{path}: cut off or not readable as audio ({' '.join(str(error).split())}); fetch it again or remove the utterance"
    return ""
