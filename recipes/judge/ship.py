"""Scores a trained judge beside Resemblyzer on speakers that it never heard, and ships it: weights, their hash and its scores into data/.

    python recipes/judge/ship.py runs/judge/run --validation runs/judge/train-clean-100.csv --test runs/judge/test-other.csv --out data
"""
from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from calibrate import rounded
from prepare import numbered

from gradtts_robust import speaker_encoder
from gradtts_robust.data.manifest import Utterance, read_manifest
from gradtts_robust.files import atomic_text
from gradtts_robust.speech.ecapa_small import SHIPPED_JUDGE, load_judge, save_judge
from gradtts_robust.speech.speaker import SpeakerEncoder
from gradtts_robust.speech.vocoder import load_vocoder
from gradtts_robust.study.encoder_calibration import calibrate_encoder


def held_out(utterances: list[Utterance], count: int) -> list[Utterance]:
    """Utterances of the last `count` speakers by number: those that training sets apart."""
    real = numbered(u.speaker for u in utterances)
    last = real[max(0, len(real) - count):]
    return [u for u in utterances if u.speaker in last]


def scores(encoder: SpeakerEncoder, validation: list[Utterance], test: list[Utterance]) -> dict:
    """Calibrations on 4 s clips: natural ones, and natural ones against Griffin-Lim's."""
    vocoder, found = load_vocoder("griffin-lim"), {}
    for name, utterances, same in (("validation", validation, True), ("test", test, False)):
        for kind, again in (("natural", None), ("resynthesised", vocoder)):
            found[f"{name}, {kind}"] = rounded(calibrate_encoder(encoder, utterances, same_recording=same, vocoder=again))
    return found


def main() -> None:
    """Ships, scores what was shipped, and prints what the card needs."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path)
    words.add_argument("--validation", type=Path, required=True, help="manifest that was trained on; its last speakers were held out")
    words.add_argument("--hold-out", type=int, default=25)
    words.add_argument("--test", type=Path, required=True, help="manifest of speakers for the final figure, two utterances each or more")
    words.add_argument("--out", type=Path, default=Path("data"))
    asked = words.parse_args()
    judge = load_judge(asked.run / "judge.safetensors")
    path = save_judge(asked.out / f"{SHIPPED_JUDGE}.safetensors", judge, dtype=torch.float16)
    people = held_out(read_manifest(asked.validation), asked.hold_out), read_manifest(asked.test)
    facts = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size,
        "parameters": sum(weight.numel() for weight in judge.parameters()),
        "scores": {encoder.name: scores(encoder, *people) for encoder in (speaker_encoder("ecapa", path), speaker_encoder("resemblyzer"))},
    }
    atomic_text(asked.out / f"{SHIPPED_JUDGE}.json", json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
