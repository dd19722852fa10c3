"""Row `train`: a step of training at full size, its gradients and its memory."""
from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from bench_measure import Figure, Settings, compared, in_process, memory
from bench_model import QUICK, Size, drawn, load_original, make_features, size, speaker_rows, write_weights
from torch import Tensor, nn

from gradtts_robust.config import OptimConfig, TextConfig
from gradtts_robust.data.dataset import Batch, collate
from gradtts_robust.losses import Objective
from gradtts_robust.model.frames import segment_indices
from gradtts_robust.model.gradtts import FRAME_MULTIPLES
from gradtts_robust.training.checkpoint import load_checkpoint
from gradtts_robust.training.loop import train
from gradtts_robust.training.setup import cpu_multiplies_bf16

ROW = "train"
PRECISIONS = {"float32": "at least 1.4", "bf16": "at least 4"}
GRADIENT_GOALS = {"float32": "1e-5", "bf16": "2e-2"}
GPU_OPTIONS = {"without CUDA graphs": {"cuda_graphs": False}, "compiled": {"compile": True}}
COMPARED = 4
WARM = 2


def measure(settings: Settings) -> list[Figure]:
    """Time, gradients and peak memory of a step, in float32 and in bf16."""
    sizes = size(settings)
    weights = write_weights(settings.work / "train.pt", sizes)
    computed = torch.cuda.is_available() if settings.device == "cuda" else cpu_multiplies_bf16()
    figures = []
    for precision, goal in PRECISIONS.items():
        note = gradient_note(weights, sizes, settings, precision) if settings.original else ""
        name = f"step of {sizes.batch} x {sizes.frames} frames, segment {sizes.segment}, {precision}"
        if precision == "bf16" and not computed:
            figures.append(Figure(ROW, name, goal=goal, note=f"not on this machine, which does not compute bf16; {note}"))
            continue
        seconds = step_seconds(weights, sizes, settings, precision)
        figures.append(compared(ROW, name, seconds, goal=goal, note=note))
        for how, options in GPU_OPTIONS.items() if settings.device == "cuda" else ():
            figures.append(compared(ROW, f"{name}, {how}", step_seconds(weights, sizes, settings, precision, **options), goal=goal))
        figures += memory_figures(weights, sizes, settings, precision)
    return figures


def step_seconds(weights: Path, sizes: Size, settings: Settings, precision: str, **options: bool) -> dict[str, list[float]]:
    """Seconds of our steps in `train`, and of a step of the original after each; beside bf16 it has TF32, as torch gives it by itself."""
    seconds: dict[str, list[float]] = {"ours": []}
    theirs = original_step(weights, sizes, settings, tf32=precision == "bf16") if settings.original else None
    if theirs:
        seconds["original"] = []
    began = settings.now()

    def after(step: int, *_) -> None:
        nonlocal began
        # the first steps also start the loop, compile and warm up
        if step > WARM:
            seconds["ours"].append(settings.now() - began)
        if theirs:
            began = settings.now()
            theirs()
            if step > WARM:
                seconds["original"].append(settings.now() - began)
        began = settings.now()

    our_steps(weights, sizes, settings, precision, steps=settings.repeats + WARM, progress=after, **options)
    return seconds


def our_steps(weights: Path, sizes: Size, settings: Settings, precision: str, *, steps: int, progress: Callable,
              **options: bool) -> None:
    """Trains with the real loop: batches, alignment, three losses, clipping, Adam, metrics on disk; `options` are `OptimConfig`'s.

    In a folder of its own, as a run that finds its checkpoints has nothing left to do.
    """
    out = tempfile.mkdtemp(dir=settings.work)
    optim = OptimConfig(batch_size=sizes.batch, segment_frames=sizes.segment, learning_rate=1e-4, precision=precision,
                        checkpoint_every=steps, threads=settings.threads, **options)
    train(load_checkpoint(weights).model, make_features(sizes), speaker_rows(sizes), objective=Objective(penalty="l2"), optim=optim,
          iterations=steps, out=out, seed=0, device=settings.device, text=TextConfig(),
          speakers=list(speaker_rows(sizes)), progress=progress)


def original_step(weights: Path, sizes: Size, settings: Settings, *, tf32: bool = False) -> Callable[[], None]:
    """A step as the original's train_multi_speaker.py makes it."""
    net = load_original(weights, sizes, settings).train()
    optimizer = torch.optim.Adam(params=net.parameters(), lr=1e-4)
    batch = collate(make_features(sizes), speaker_rows(sizes)).to(settings.device)

    def step() -> None:
        net.zero_grad()
        torch.backends.cudnn.allow_tf32 = tf32
        losses = net.compute_loss(batch.ids, batch.ids_lengths, batch.mel, batch.mel_lengths, spk=batch.speakers, out_size=sizes.segment)
        sum(losses).backward()
        torch.backends.cudnn.allow_tf32 = False
        for part in (net.encoder, net.decoder):
            nn.utils.clip_grad_norm_(part.parameters(), max_norm=1)
        optimizer.step()
        for loss in losses:
            loss.item()

    return step


def memory_figures(weights: Path, sizes: Size, settings: Settings, precision: str) -> list[Figure]:
    """Peak memory of two steps, each in a process of its own."""
    peaks = {"ours": in_process(our_peak, weights, sizes, settings, precision)}
    if settings.original:
        peaks["original"] = in_process(original_peak, weights, sizes, settings)
    whole, grown = ({who: peak[part] for who, peak in peaks.items()} for part in (1, 0))
    goal = "at least 1.67, 0.6 of it"
    return [Figure(ROW, f"peak memory of a step, over that of the idle process, {precision}", "MiB", **grown, goal=goal),
            Figure(ROW, f"peak memory of the process, {precision}", "MiB", **whole, goal=goal)]


def our_peak(weights: Path, sizes: Size, settings: Settings, precision: str) -> tuple[float, float]:
    """MiB above what there was before the model, and in all."""
    torch.set_num_threads(settings.threads)
    small = write_weights(settings.work / "warm.pt", QUICK)
    our_steps(small, QUICK, settings, precision, steps=1, progress=lambda *_: None)
    before, peaks = used(settings), []
    our_steps(weights, sizes, settings, precision, steps=2, progress=lambda *_: peaks.append(used(settings, highest=True)))
    return peaks[-1] - before, peaks[-1]


def original_peak(weights: Path, sizes: Size, settings: Settings) -> tuple[float, float]:
    """As `our_peak`."""
    torch.set_num_threads(settings.threads)
    original_step(write_weights(settings.work / "warm.pt", QUICK), QUICK, settings)()
    before = used(settings)
    step = original_step(weights, sizes, settings)
    for _ in range(2):
        step()
    peak = used(settings, highest=True)
    return peak - before, peak


def used(settings: Settings, *, highest: bool = False) -> float:
    """MiB in use: of the process on the CPU, of torch on a GPU."""
    if settings.device == "cuda":
        return (torch.cuda.max_memory_allocated() if highest else torch.cuda.memory_allocated()) / 2**20
    return memory("VmHWM" if highest else "VmRSS")


def gradient_note(weights: Path, sizes: Size, settings: Settings, precision: str) -> str:
    """How far our gradients are from the original's in float32, on the same weights, segments, times and noise, without dropout.

    Of `COMPARED` utterances. A tensor's own error is taken relative to at least a 1e-4th of the whole: some have no gradient but rounding.
    """
    batch = collate(make_features(sizes)[:COMPARED], speaker_rows(sizes)).to(settings.device)
    t = torch.linspace(0.02, 0.98, len(batch.ids), device=settings.device)
    ours, theirs = our_gradients(weights, sizes, settings, batch, t, precision), original_gradients(weights, sizes, settings, batch, t)
    whole = float(torch.cat([g.flatten() for g in theirs.values()]).norm())
    errors = {name: float((ours[name] - theirs[name]).double().norm()) for name in theirs}
    worst = max(error / max(float(theirs[name].norm()), 1e-4 * whole) for name, error in errors.items())
    relative = sum(error ** 2 for error in errors.values()) ** 0.5 / whole
    return f"gradients: relative error {relative:.1e}, of the worst tensor {worst:.1e} (goal {GRADIENT_GOALS[precision]})"


def our_gradients(weights: Path, sizes: Size, settings: Settings, batch: Batch, t: Tensor, precision: str) -> dict[str, Tensor]:
    """By parameter, of the sum of the three losses; in bf16 with the alignment that is found in float32."""
    net = load_checkpoint(weights).model.to(settings.device)
    if precision == "bf16":
        # random weights prefer hardly any path to others: rounding picks another one, which is not the gradients' error
        with torch.no_grad():
            mu = net.encode(batch.ids, batch.ids_lengths, batch.speakers).mu
            durations = net.align(mu, batch.mel, batch.ids, batch.ids_lengths, batch.mel_lengths)
        batch = replace(batch, durations=durations, unaligned=None)
    with torch.autocast(settings.device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        terms = net.training_terms(batch, objective=Objective(penalty="l2"), segment_frames=sizes.segment,
                                   generator=torch.Generator().manual_seed(2), t=t)
    sum(term.float().mean() for term in terms.values()).backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def segments_and_noise(batch: Batch, sizes: Size) -> tuple[Tensor, Tensor]:
    """What ours draws in `our_gradients`: the segments' first frames [B] and the noise [B, 80, segment]."""
    generator = torch.Generator().manual_seed(2)
    frames = segment_indices(batch.mel_lengths, sizes.frames, sizes.segment, generator=generator, multiple=FRAME_MULTIPLES["grad-tts"])
    return frames[:, 0], torch.randn(len(frames), 80, sizes.segment, generator=generator).to(frames.device)


def original_gradients(weights: Path, sizes: Size, settings: Settings, batch: Batch, t: Tensor) -> dict[str, Tensor]:
    """The same of the original, told what ours draws; its prior too over whole utterances, as ours is, and not over the segments."""
    net = load_original(weights, sizes, settings).eval()
    starts, noise = segments_and_noise(batch, sizes)
    known = (batch.ids, batch.ids_lengths, batch.mel, batch.mel_lengths, batch.speakers)
    with drawn(starts=starts, t=t, noise=noise):
        duration, _, diffusion = net.compute_loss(*known, out_size=sizes.segment)
    (duration + diffusion).backward()
    # all but the prior is thrown away, so that a score of zero will do
    with (drawn(t=t, noise=torch.zeros_like(batch.mel)),
          mock.patch.object(net.decoder.estimator, "forward", lambda noisy, *_: torch.zeros_like(noisy))):
        net.compute_loss(*known)[1].backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}
