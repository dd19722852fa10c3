"""Trains the small ECAPA-TDNN judge by the additive angular margin softmax and by pairs; killed, it goes on from its last checkpoint.

    python recipes/judge/train_judge.py --sounds runs/judge/waves.npz --out runs/judge/run

Every speaker at every speed is a class: a voice played faster is another person's. Crops are natural or voiced again by Griffin-Lim,
then pass through `augment`. On one thread the same command gives the same weights, killed in between or not.
"""
from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from augment import RATE, Augmentation, augment, mask_features
from prepare import Sounds, crop, read_sounds
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from torch import Tensor

from gradtts_robust.files import atomic_write
from gradtts_robust.speech.audio import resample
from gradtts_robust.speech.ecapa_small import EcapaSmall, EcapaSmallConfig, save_judge
from gradtts_robust.study.encoder_calibration import equal_error, pair_scores

CHECKPOINT, LOG, WEIGHTS = "checkpoint.pt", "log.jsonl", "judge.safetensors"


@dataclass(frozen=True)
class Plan:
    """Settings of a training.

    Args:
        steps, voices: of the optimizer, and classes in each, of which two crops are heard.
        seconds: shortest and longest crop; one length a batch.
        speeds: factors; each makes new speakers.
        again: share of crops that were voiced again by Griffin-Lim.
        learning_rate, weight_decay, warmup: of AdamW; up over `warmup` steps, then down along a cosine to 0.
        margin, scale: of the softmax, the margin in radians, rising from 0 over `margin_warmup` steps.
        pair_scale: of the softmax in which each crop is to find the other one of its class among the batch's.
        easy: share of the augmentations at the first step, rising to 1 over `easy_steps`.
        hold_out: real speakers kept for validation.
        every: steps between checkpoints and validations.
        whiten_batches, shrink: what the last layer's whitening is measured on, and how much of a sphere is mixed into it.
        seed: of everything.
    """

    steps: int = 1200
    voices: int = 20
    seconds: tuple[float, float] = (1.6, 2.4)
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    again: float = 0.25
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warmup: int = 100
    margin: float = 0.2
    margin_warmup: int = 1000
    scale: float = 30.0
    pair_scale: float = 15.0
    easy: float = 0.3
    easy_steps: int = 600
    hold_out: int = 25
    every: int = 100
    whiten_batches: int = 100
    shrink: float = 0.1
    seed: int = 0


@dataclass
class State:
    """A training that goes on: `step` steps are done."""

    judge: EcapaSmall
    classes: torch.nn.Parameter
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0


def make_state(plan: Plan, config: EcapaSmallConfig, count: int) -> State:
    """A fresh network, and a class vector for each of `count` classes."""
    torch.manual_seed(plan.seed)
    judge = EcapaSmall(config)
    classes = torch.nn.Parameter(torch.nn.init.xavier_uniform_(torch.empty(count, config.dim)))
    optimizer = torch.optim.AdamW([*judge.parameters(), classes], lr=plan.learning_rate, weight_decay=plan.weight_decay)
    return State(judge, classes, optimizer, torch.Generator().manual_seed(plan.seed))


def save_state(folder: Path, state: State) -> None:
    """Writes the checkpoint, whole or not at all."""
    with atomic_write(folder / CHECKPOINT) as temporary:
        torch.save({"judge": state.judge.state_dict(), "classes": state.classes.data, "optimizer": state.optimizer.state_dict(),
                    "generator": state.generator.get_state(), "step": state.step}, temporary)


def restore(folder: Path, state: State) -> None:
    """Puts the folder's checkpoint into a fresh state; nothing where there is none."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return
    saved = torch.load(path, weights_only=True)
    if saved["classes"].shape != state.classes.shape:
        raise SystemExit(f"{path}: made from other speakers or speeds; choose another --out")
    state.judge.load_state_dict(saved["judge"])
    state.classes.data.copy_(saved["classes"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.generator.set_state(saved["generator"])
    state.step = saved["step"]


def draw_batch(sounds: Sounds, names: list[str], plan: Plan, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two crops of each of some speakers at one speed, [2 voices, N], first ones first, and their classes [2 voices]."""
    low, high = plan.seconds
    length = round(RATE * (low + (high - low) * float(torch.rand((), generator=generator))))
    labels = torch.randperm(len(names) * len(plan.speeds), generator=generator)[: plan.voices].repeat(2)
    rows = []
    for label in labels.tolist():
        again, place = torch.rand(2, generator=generator).tolist()
        speed = plan.speeds[label // len(names)]
        wave = sounds.speakers[names[label % len(names)]][int(again < plan.again)]
        wanted = math.ceil(length * speed) + 1
        start = int(place * max(1, len(wave) - wanted))
        heard = resample(crop(wave, start, wanted), source_rate=round(RATE * speed), target_rate=RATE)[:length]
        rows.append(torch.from_numpy(np.pad(heard, (0, length - len(heard)))))
    return torch.stack(rows), labels


def losses(state: State, features: Tensor, labels: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """The additive angular margin softmax over all classes (arXiv 1801.07698), and the angular prototypical loss over the
    batch's (arXiv 2003.11982), which learns from the first step, where a class vector is met once in tens of steps."""
    margin = plan.margin * min(1.0, state.step / plan.margin_warmup)
    embeddings = state.judge(features)
    cosines = embeddings @ torch.nn.functional.normalize(state.classes, dim=1).T
    softmax = LogSoftmaxWrapper(AdditiveAngularMargin(margin=margin, scale=plan.scale))
    first, second = embeddings.chunk(2)
    alike, own = plan.pair_scale * first @ second.T, torch.arange(len(first))
    pairs = (torch.nn.functional.cross_entropy(alike, own) + torch.nn.functional.cross_entropy(alike.T, own)) / 2
    return softmax(cosines.unsqueeze(1), labels.unsqueeze(1)), pairs


def learn(state: State, waves: Tensor, labels: Tensor, plan: Plan, augmentation: Augmentation) -> list[float]:
    """One step; gives both losses."""
    rate = min(1.0, (state.step + 1) / plan.warmup) * 0.5 * (1 + math.cos(math.pi * state.step / plan.steps))
    for group in state.optimizer.param_groups:
        group["lr"] = plan.learning_rate * rate
    with torch.no_grad():
        mild = augmentation.milder(min(1.0, plan.easy + (1 - plan.easy) * state.step / plan.easy_steps))
        features = state.judge.features(augment(waves, mild, state.generator))
        features = mask_features(features, mild, state.generator)
    state.judge.train()
    both = losses(state, features, labels, plan)
    state.optimizer.zero_grad()
    sum(both).backward()
    torch.nn.utils.clip_grad_norm_([*state.judge.parameters(), state.classes], 5.0)
    state.optimizer.step()
    state.step += 1
    return [float(loss.detach()) for loss in both]


@torch.no_grad()
def validate(judge: EcapaSmall, sounds: Sounds, *, seconds: float = 3.0) -> dict[str, float]:
    """Equal error rates on the held-out speakers' clips: natural, voiced again, and one against the other."""
    judge.eval()
    length, labels, rows = round(RATE * seconds), [], ([], [])
    for name in sounds.held_out:
        natural, again = sounds.speakers[name]
        for start in range(0, len(natural) - length + 1, length):
            labels.append(name)
            for kind, wave in enumerate((natural, again)):
                rows[kind].append(judge(judge.features(torch.from_numpy(crop(wave, start, length))[None]))[0].numpy())
    natural, again = (np.stack(row) for row in rows)
    rates = {}
    for name, (first, second) in {"natural": (natural, natural), "again": (again, again), "across": (natural, again)}.items():
        pairs = pair_scores(first, labels, others=second)
        rates[name] = round(equal_error(pairs.same, pairs.different).rate, 4)
    return rates


@torch.no_grad()
def whiten(judge: EcapaSmall, sounds: Sounds, names: list[str], plan: Plan, augmentation: Augmentation) -> None:
    """Folds into the last layer what makes crops of one voice differ by equally much in every direction.

    Within-class covariance normalisation (Hatch, Kajarekar, Stolcke 2006): with C the covariance of half the differences between two
    crops of a voice, embeddings are centred and multiplied by a root of C^-1.
    """
    judge.eval()
    generator = torch.Generator().manual_seed(plan.seed + 1)
    pairs = []
    for _ in range(plan.whiten_batches):
        waves, _labels = draw_batch(sounds, names, plan, generator)
        pairs.append(judge.network(judge.features(augment(waves, augmentation, generator))).squeeze(1).view(2, -1, judge.config.dim))
    first, second = torch.cat(pairs, dim=1).double()
    apart = (first - second) / math.sqrt(2)
    covariance = apart.T @ apart / len(apart)
    covariance += plan.shrink * covariance.trace() / len(covariance) * torch.eye(len(covariance), dtype=torch.float64)
    root = torch.linalg.cholesky(torch.linalg.inv(covariance))
    last = judge.network.fc.conv
    last.bias.copy_((last.bias.double() - torch.cat([first, second]).mean(dim=0)) @ root)
    last.weight.copy_(torch.einsum("od,oik->dik", root, last.weight.double()))


def train(sounds: Sounds, plan: Plan, config: EcapaSmallConfig, augmentation: Augmentation, out: Path) -> EcapaSmall:
    """Trains to the plan's last step, going on from what `out` holds."""
    names = [name for name in sounds.speakers if name not in sounds.held_out]
    state = make_state(plan, config, len(names) * len(plan.speeds))
    out.mkdir(parents=True, exist_ok=True)
    restore(out, state)
    told, begun = [], time.monotonic()
    while state.step < plan.steps:
        told.append(learn(state, *draw_batch(sounds, names, plan, state.generator), plan, augmentation))
        if state.step % plan.every == 0 or state.step == plan.steps:
            save_state(out, state)
            entry = {"step": state.step, "losses": np.mean(told, axis=0).round(3).tolist(), "seconds": round(time.monotonic() - begun),
                     **(validate(state.judge, sounds) if sounds.held_out else {})}
            with open(out / LOG, "a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            print(entry, flush=True)
            told.clear()
    whiten(state.judge, sounds, names, plan, augmentation)
    if sounds.held_out:
        print({"whitened": True, **validate(state.judge, sounds)}, flush=True)
    save_judge(out / WEIGHTS, state.judge, dtype=torch.float32)
    return state.judge.eval()


def main() -> None:
    """Reads the settings, trains."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--sounds", type=Path, default=Path("runs/judge/waves.npz"))
    words.add_argument("--out", type=Path, default=Path("runs/judge/run"))
    for name in ("steps", "voices", "hold_out", "every", "seed"):
        words.add_argument(f"--{name.replace('_', '-')}", dest=name, type=int, default=getattr(Plan(), name))
    words.add_argument("--threads", type=int, default=1, help="of torch; another number gives other weights in the last digits")
    asked = words.parse_args()
    torch.set_num_threads(asked.threads)
    plan = Plan(steps=asked.steps, voices=asked.voices, hold_out=asked.hold_out, every=asked.every, seed=asked.seed)
    train(read_sounds(asked.sounds, hold_out=plan.hold_out), plan, EcapaSmallConfig(), Augmentation(), asked.out)


if __name__ == "__main__":
    main()
