"""Rows `align`, `embed` and `start`: the alignment search, speaker embeddings, and what a command costs before it does anything."""
from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import bench_original
import bench_speech
import numpy as np
import torch
from bench_measure import Figure, Settings, compared, interleaved, run, script

from gradtts_robust.model.alignment import durations_to_path, log_prior, maximum_path, search_durations

OUR_START = """
import sys
import numpy as np
import gradtts_robust as gr
gr.speaker_encoder("resemblyzer").embed([np.load(sys.argv[1])], sample_rate=16000)
"""
THEIR_START = """
import sys
import numpy as np
from resemblyzer import VoiceEncoder, preprocess_wav
VoiceEncoder("cpu", verbose=False).embed_utterance(preprocess_wav(np.load(sys.argv[1])))
"""


def align(settings: Settings) -> list[Figure]:
    """The search for 16 utterances of 400 symbols and 1600 frames: its path from the same matrix, and durations as training takes them."""
    torch.set_num_threads(settings.threads)
    batch, symbols, frames = (2, 10, 40) if settings.quick else (16, 400, 1600)
    generator = torch.Generator().manual_seed(0)
    mu, mel = (torch.randn(batch, 80, n, generator=generator).to(settings.device) for n in (symbols, frames))
    # as training makes it: a view, symbols side by side; and as the original's does, frames side by side
    view, whole = log_prior(mu, mel), log_prior(mu, mel).contiguous()
    mask = torch.ones_like(whole)
    lengths, ends = (torch.full((batch,), n, device=settings.device) for n in (symbols, frames))
    paths = {"ours": lambda: maximum_path(whole, mask)}
    durations = {"ours": lambda: search_durations(view, lengths, ends)}
    note = "" if not settings.original else "the original's is not built"
    if settings.search:
        bench_original.load(settings.original, settings.search)
        from model.monotonic_align import maximum_path as search

        paths["original"] = durations["original"] = lambda: search(whole, mask)
        same = [torch.equal(found, search(whole, mask)) for found in (paths["ours"](), durations_to_path(durations["ours"](), frames))]
        note = "same paths" if all(same) else "OTHER PATHS"
    size = f"{batch} x {symbols} symbols x {frames} frames"
    return [compared("align", f"path of {size}", interleaved(paths, settings), goal="at least 1", note=note),
            compared("align", "durations, as training takes them", interleaved(durations, settings), goal="at least 1", note=note)]


def embed(settings: Settings) -> list[Figure]:
    """Clips of 4 s at 16 kHz: Resemblyzer's package one by one, ours in one call, with and without what comes before the network."""
    from resemblyzer import VoiceEncoder, preprocess_wav

    import gradtts_robust as gr

    torch.set_num_threads(settings.threads)
    waves = bench_speech.clips(bench_speech.speech(settings).manifest, 3 if settings.quick else 200)
    trimmed = [preprocess_wav(wave) for wave in waves]
    theirs, ours = VoiceEncoder("cpu", verbose=False), gr.speaker_encoder("resemblyzer", trim=True)
    network = gr.speaker_encoder("resemblyzer", trim=False)
    tasks = {
        "with loudness and trimming": {
            "ours": lambda: ours.embed(waves, sample_rate=16000),
            "original": lambda: np.stack([theirs.embed_utterance(preprocess_wav(wave)) for wave in waves])},
        "of clips that are trimmed already": {
            "ours": lambda: network.embed(trimmed, sample_rate=16000),
            "original": lambda: np.stack([theirs.embed_utterance(wave) for wave in trimmed])},
    }
    figures = []
    for name, calls in tasks.items():
        off = float(np.abs(calls["ours"]() - calls["original"]()).max())
        figures.append(compared("embed", f"{len(waves)} clips of 4 s, {name}; the original is Resemblyzer, one by one",
                                interleaved(calls, settings), goal="at least 5", note=f"largest difference {off:.1e} (goal 1e-4)"))
    return [*figures, _first_embedding(waves[0], settings)]


def _first_embedding(wave: np.ndarray, settings: Settings) -> Figure:
    path = settings.work / "clip.npy"
    np.save(path, wave)
    commands = {"ours": script(OUR_START, path), "original": script(THEIR_START, path)}
    calls = {name: lambda words=words: run(words, settings.clock) for name, words in commands.items()}
    return compared("embed", "first embedding of a fresh process", _told(calls, settings), goal="under 3 s")


def start(settings: Settings) -> list[Figure]:
    """`--help`, the import, and what the bare interpreter takes, in fresh processes."""
    command = shutil.which("gradtts-robust", path=str(Path(sys.executable).parent))
    words = [command] if command else [sys.executable, "-m", "gradtts_robust"]
    commands = {"help": [*words, "--help"], "import": script("import gradtts_robust"), "bare": script("")}
    calls = {name: lambda words=words: run(words, settings.clock) for name, words in commands.items()}
    medians = {name: statistics.median(seconds) for name, seconds in _told(calls, settings).items()}
    note = f"of it the bare interpreter {medians['bare']:.3f} s"
    return [Figure("start", "gradtts-robust --help", ours=medians["help"], goal="under 0.5 s", note=note),
            Figure("start", "import gradtts_robust", ours=medians["import"], goal="under 0.3 s", note=note)]


def _told(calls: dict[str, Callable[[], float]], settings: Settings) -> dict[str, list[float]]:
    """As `interleaved`, of calls that measure themselves."""
    rounds = [{name: call() for name, call in calls.items()} for _ in range(settings.repeats + 1)][1:]
    return {name: [one[name] for one in rounds] for name in calls}
