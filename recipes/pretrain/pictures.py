"""Draws what a base aligns and says: a recording with the symbols where its alignment puts them, and the same text spoken by the base.

    python recipes/pretrain/pictures.py runs/pretrain/5-told runs/pretrain/aligned-100.csv --utterances ID --out docs/figures/base
"""
from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradtts_robust import load
from gradtts_robust.data.dataset import Features, prepare_features
from gradtts_robust.data.manifest import read_manifests
from gradtts_robust.speech.text import SYMBOLS, encode
from gradtts_robust.study.figures import HOP_SECONDS, save
from gradtts_robust.training.align import align
from gradtts_robust.training.voice import TTS

SHOWN_SECONDS = 3.0
RANGE = (-11.0, 2.0)
"""Natural-log mel values from black to white, the same in every panel."""


def draw_panel(axes: Axes, mel: np.ndarray, ids: torch.Tensor, durations: torch.Tensor, *, title: str) -> None:
    """A mel [80, F] with a line where each of the symbols `ids` [T] ends, its name above its middle."""
    frames = min(mel.shape[1], round(SHOWN_SECONDS / HOP_SECONDS))
    axes.imshow(mel[:, :frames], origin="lower", aspect="auto", cmap="gray", vmin=RANGE[0], vmax=RANGE[1], interpolation="nearest",
                extent=(0, frames * HOP_SECONDS, 0, mel.shape[0]))
    ends = durations.cumsum(0).tolist()
    for symbol, end, frames_long in zip(ids.tolist(), ends, durations.tolist(), strict=True):
        if end > frames:
            break
        axes.axvline(end * HOP_SECONDS, color="#e69f00", linewidth=0.5)
        name = SYMBOLS[symbol].strip().lstrip("@") or "_"
        axes.text((end - frames_long / 2) * HOP_SECONDS, mel.shape[0] + 1, name, ha="center", va="bottom", fontsize=5, rotation=90)
    axes.set_title(title, loc="left", pad=18, fontsize=8)
    axes.set_ylabel("mel band", fontsize=8)
    axes.tick_params(labelsize=7)


def draw(tts: TTS, features: list[Features], texts: list[str]) -> Figure:
    """Two panels for each utterance: its recording, aligned, and the base's own saying of its text."""
    aligned = align(tts.model, features, {name: row for row, name in enumerate(tts.speakers)})
    figure = Figure(figsize=(7.2, 2.3 * 2 * len(features)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 * len(features), 1, squeeze=False)[:, 0]
    for number, (feature, text) in enumerate(zip(aligned, texts, strict=True)):
        spoken = tts.speak(text, speaker=feature.speaker, length_scale=1.0)
        draw_panel(panels[2 * number], feature.mel.numpy(), feature.ids, feature.durations,
                   title=f"{feature.speaker}: recording, aligned by the base")
        draw_panel(panels[2 * number + 1], spoken.mel.numpy(), torch.tensor(encode(text, tts.text)), spoken.durations,
                   title=f"{feature.speaker}: spoken by the base")
    panels[-1].set_xlabel("seconds", fontsize=8)
    return figure


def main() -> None:
    """Draws the utterances that are asked for."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model")
    words.add_argument("manifests", nargs="+")
    words.add_argument("--utterances", nargs="+", required=True, help="ids, of speakers that the base knows")
    words.add_argument("--out", type=Path, required=True, help="figure to write, as .svg and .png")
    asked = words.parse_args()
    known = {utterance.id: utterance for utterance in read_manifests(asked.manifests)}
    unknown = [name for name in asked.utterances if name not in known]
    if unknown:
        words.error(f"no utterance {unknown[0]!r} in {', '.join(asked.manifests)}")
    chosen = [known[name] for name in asked.utterances]
    tts = load(asked.model, device="cpu")
    features = prepare_features(chosen, tts.text, None)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gradtts-robust"}):
        print("\n".join(save(draw(tts, features, [utterance.text for utterance in chosen]), asked.out)))


if __name__ == "__main__":
    main()
