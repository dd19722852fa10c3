"""Scores a base on sentences it never saw, and ships it: bf16 weights, their hash and their scores into data/.

    python recipes/pretrain/ship.py runs/pretrain/5-told --natural runs/pretrain/embedded/manifest.csv --out data
"""
from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from gradtts_robust import speaker_encoder
from gradtts_robust.data.generated import VOICES, sentences
from gradtts_robust.data.manifest import read_manifest
from gradtts_robust.files import atomic_text
from gradtts_robust.speech.audio import SAMPLE_RATE, load_audio
from gradtts_robust.study.metrics import bootstrap_interval
from gradtts_robust.study.speech_quality import error_rate, heard, recogniser
from gradtts_robust.training.adapt import SHIPPED_BASE
from gradtts_robust.training.checkpoint import load_checkpoint, save_checkpoint
from gradtts_robust.training.voice import TTS, Speech


def speak(tts: TTS, names: list[str], *, texts: list[str], steps: int) -> dict[str, list[Speech]]:
    """The texts as each of the speakers says them."""
    return {name: tts.speak_batch(texts, speaker=name, steps=steps, length_scale=1.0, seed=0) for name in names}


def judge(tts: TTS, embeddings: np.ndarray, spoken: dict[str, list[Speech]]) -> dict:
    """Similarity to the speakers' own centroids with its interval over speakers, and the share whose nearest centroid is the right one."""
    encoder, values, right, speakers = speaker_encoder("resemblyzer"), [], [], []
    for name, samples in spoken.items():
        similarities = encoder.embed([speech.wave for speech in samples], sample_rate=SAMPLE_RATE) @ embeddings.T
        own = tts.speakers.index(name)
        values += similarities[:, own].tolist()
        right += (similarities.argmax(1) == own).tolist()
        speakers += [name] * len(samples)
    interval = bootstrap_interval(np.array(values), np.array(speakers))
    return {"similarity": round(float(np.mean(values)), 3), "interval": [round(interval.low, 3), round(interval.high, 3)],
            "nearest_right": round(float(np.mean(right)), 3), "speakers": len(spoken), "samples": len(values)}


def word_errors(spoken: dict[str, list[Speech]], texts: list[str], natural: Path) -> dict:
    """Word error of pocketsphinx on the samples, and on as many of the same voices' own recordings."""
    recognise, own = recogniser(), defaultdict(list)
    for utterance in read_manifest(natural):
        own[utterance.speaker].append(utterance)
    samples = [heard(recognise(speech.wave, SAMPLE_RATE), text)
               for said in spoken.values() for speech, text in zip(said, texts, strict=True)]
    recordings = [heard(recognise(load_audio(u.path), SAMPLE_RATE), u.text) for name in spoken for u in own[name][: len(texts)]]
    rates = error_rate(samples), error_rate(recordings)
    return {"samples": round(rates[0], 3), "recordings": round(rates[1], 3), "ratio": round(rates[0] / rates[1], 2)}


def main() -> None:
    """Scores, ships, and prints what the card needs."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path)
    words.add_argument("--out", type=Path, default=Path("data"))
    words.add_argument("--natural", type=Path, required=True, help="manifest of the embedded voices, to compare word errors with")
    words.add_argument("--speakers", type=int, default=24, help="of each kind, spread evenly over their names")
    words.add_argument("--sentences", type=int, default=4)
    words.add_argument("--steps", type=int, default=10)
    words.add_argument("--vocoder", default="griffin-lim")
    asked = words.parse_args()
    checkpoint = load_checkpoint(asked.run)
    path = save_checkpoint(asked.out / f"{SHIPPED_BASE}.safetensors", checkpoint, dtype=torch.bfloat16)
    shipped = load_checkpoint(path)
    tts, embeddings = TTS(shipped, vocoder=asked.vocoder), torch.nn.functional.normalize(shipped.embeddings, dim=1).numpy()
    texts = sentences("test")[: asked.sentences]
    scores = {"steps": asked.steps, "sentences": len(texts), "vocoder": asked.vocoder, "trained_steps": checkpoint.step}
    for kind in ("embedded", "real"):
        known = [name for name in shipped.speakers if (name in VOICES) == (kind == "embedded")]
        chosen = sorted({round(place) for place in np.linspace(0, len(known) - 1, asked.speakers)})
        spoken = speak(tts, [known[index] for index in chosen], texts=texts, steps=asked.steps)
        scores[kind] = judge(tts, embeddings, spoken)
        if kind == "embedded":
            scores["word_error"] = word_errors(spoken, texts, asked.natural)
    facts = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size, "scores": scores}
    atomic_text(asked.out / f"{SHIPPED_BASE}.json", json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
