"""Scores a base on sentences it never saw, and ships it: bf16 weights, their hash and a card into data/.

    python recipes/pretrain/ship.py runs/pretrain/3-kept --out data
"""
from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from gradtts_robust import speaker_encoder
from gradtts_robust.data.generated import VOICES, sentences
from gradtts_robust.files import atomic_text
from gradtts_robust.study.metrics import bootstrap_interval
from gradtts_robust.training.adapt import SHIPPED_BASE
from gradtts_robust.training.checkpoint import load_checkpoint, save_checkpoint
from gradtts_robust.training.voice import TTS


def speak_and_judge(tts: TTS, embeddings: np.ndarray, names: list[str], *, texts: list[str], steps: int) -> list[dict]:
    """Speaks the texts as each of the speakers; similarity to the speaker's own centroid, and whose centroid is nearest."""
    encoder = speaker_encoder("resemblyzer")
    rows = []
    for name in names:
        spoken = tts.speak_batch(texts, speaker=name, steps=steps, length_scale=1.0, seed=0)
        similarities = encoder.embed([speech.wave for speech in spoken], sample_rate=spoken[0].sample_rate) @ embeddings.T
        own = tts.speakers.index(name)
        rows += [{"speaker": name, "kind": "embedded" if name in VOICES else "real", "similarity": float(row[own]),
                  "nearest": tts.speakers[int(row.argmax())] == name} for row in similarities]
    return rows


def summary(rows: list[dict]) -> dict:
    """Mean similarity with its interval over speakers, and the share whose nearest speaker is the right one."""
    values, speakers = np.array([r["similarity"] for r in rows]), np.array([r["speaker"] for r in rows])
    interval = bootstrap_interval(values, speakers)
    return {"similarity": round(float(values.mean()), 3), "interval": [round(interval.low, 3), round(interval.high, 3)],
            "nearest_right": round(float(np.mean([r["nearest"] for r in rows])), 3), "speakers": len(set(speakers)), "samples": len(rows)}


def main() -> None:
    """Scores, ships, and prints what the card needs."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path)
    words.add_argument("--out", type=Path, default=Path("data"))
    words.add_argument("--speakers", type=int, default=12, help="of each kind, the first by name")
    words.add_argument("--sentences", type=int, default=4)
    words.add_argument("--steps", type=int, default=10)
    asked = words.parse_args()
    checkpoint = load_checkpoint(asked.run)
    path = save_checkpoint(asked.out / f"{SHIPPED_BASE}.safetensors", checkpoint, dtype=torch.bfloat16)
    shipped = load_checkpoint(path)
    tts, embeddings = TTS(shipped, vocoder="griffin-lim"), torch.nn.functional.normalize(shipped.embeddings, dim=1).numpy()
    texts = sentences("test")[: asked.sentences]
    scores = {"steps": asked.steps, "sentences": len(texts), "trained_steps": checkpoint.step}
    for kind in ("embedded", "real"):
        names = [name for name in shipped.speakers if (name in VOICES) == (kind == "embedded")][: asked.speakers]
        scores[kind] = summary(speak_and_judge(tts, embeddings, names, texts=texts, steps=asked.steps))
    facts = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size, "scores": scores}
    atomic_text(asked.out / f"{SHIPPED_BASE}.json", json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
