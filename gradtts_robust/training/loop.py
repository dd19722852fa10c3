"""The training loop of pretraining and adaptation, on accelerate.

What a step computes is a function of the weights and of (seed, step) alone, so a run that was killed and resumed ends like one
that never was: bit-equal on CPU with the same thread count.
"""
from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config import OptimConfig, TextConfig
from ..data.dataset import Batch, Features, batch_indices, collate
from ..losses import Objective
from ..model.conditioning import Perturbation
from ..model.gradtts import GradTTS
from . import ema, setup
from .checkpoint import Checkpoint
from .gain import GainEstimate
from .history import Progress, checkpoint_folder, keep_newest, newest_state, read_state, saved_checkpoints, write_checkpoint
from .loss import TERMS, Loss
from .record import Record, write_environment
from .weights import ExampleWeights

OnCheckpoint = Callable[[Path, Checkpoint], None]


@dataclass
class State:
    """What changes from step to step.

    Args:
        model: being trained.
        average: averaged weights, or None.
        optimizer: Adam over the trained parameters.
        step: optimizer steps done.
        weights: of the examples, where they are weighted.
    """

    model: GradTTS
    average: GradTTS | None
    optimizer: torch.optim.Optimizer
    step: int = 0
    weights: ExampleWeights | None = None


@dataclass
class Labels:
    """What a checkpoint says besides its weights: the front end, the speakers' names, their embeddings [n, D], whom it speaks as."""

    text: TextConfig
    speakers: list[str]
    embeddings: Tensor | None = None
    default_speaker: str | None = None


@dataclass
class TrainResult:
    """Folder, last step, checkpoint folders in their order, and the wall time of this call in seconds."""

    out: Path
    step: int
    checkpoints: list[Path]
    seconds: float


def learning_rate(optim: OptimConfig, *, step: int, iterations: int) -> float:
    """Adam's rate at `step` in [0, iterations): linear warm-up, then constant or a cosine down to a tenth."""
    if step < optim.warmup:
        return optim.learning_rate * (step + 1) / optim.warmup
    if not optim.decay:
        return optim.learning_rate
    done = (step - optim.warmup) / max(1, iterations - optim.warmup)
    return optim.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seed of a step's noise, in [0, 2^63)."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def train(model: GradTTS, features: Sequence[Features], speaker_ids: dict[str, int], *, objective: Objective, optim: OptimConfig,
          iterations: int, out: str | Path, seed: int, device: str = "auto", trainable: str | None = None,
          speaker_row: int | None = None, text: TextConfig, speakers: list[str], embeddings: Tensor | None = None,
          default_speaker: str | None = None, aligned_first: int = 0, perturbation: Perturbation | None = None,
          weights: ExampleWeights | None = None, gain: GainEstimate | None = None, trim: float = 0.0, save_start: bool = False,
          on_checkpoint: OnCheckpoint | None = None, progress: Progress | None = None, resume: bool = True) -> TrainResult:
    """Trains `model` in place up to `iterations` steps and writes checkpoints, metrics and events to `out`.

    A run that finds its own checkpoints in `out` goes on from the newest, whatever weights `model` came with.
    Works under `accelerate launch`; the batch is then `optim.batch_size` per process.

    Args:
        features, speaker_ids: the data, and the speaker table's row of each of its speakers.
        trainable: `all` (or None), `encoder` (with durations and speaker table: the score network does not run), `decoder` (score
            network and speaker table) or `speaker` (the table).
        speaker_row: the only row of the table that may move; None for every row.
        text, speakers, embeddings, default_speaker: kept in the checkpoints, see `Checkpoint`.
        aligned_first: steps at the start that draw from utterances with known durations, where there are any.
        perturbation: of the score network's conditions.
        weights: of the examples, on all three terms; None weighs all alike.
        gain: estimates them anew while the model learns; `weights` are those before.
        trim: share of each batch, that with the highest sum of the terms, that does not count, in [0, 1).
        save_start: write checkpoint 0, the model before its first step.
        on_checkpoint: called with each checkpoint's folder and contents, in its main process; again after a resume for the
            checkpoint that it went on from, since it may have died within the call. Must leave the weights as they are.
        progress: called with (step, iterations, metrics) after each step.
        resume: False refuses a folder that holds checkpoints.

    Raises:
        ValueError: a setting out of its range, no features, a loss that is not finite, or checkpoints of another model in `out`.
    """
    began, out = time.monotonic(), Path(out)
    setup.check_settings(optim, iterations=iterations, seed=seed, decoder=model.config.decoder)
    if not 0 <= trim < 1:
        raise ValueError(f"trim is {trim:g}; it must be in [0, 1), such as 0.3")
    if not features:
        raise ValueError("no utterances to train on; check the manifest")
    if not resume and newest_state(out):
        raise ValueError(f"{out} already holds checkpoints; choose another folder, or let the run resume")
    labels = Labels(text, list(speakers), embeddings, default_speaker)
    accelerator = setup.make_accelerator(device, optim.precision, model.config)
    aligned = [f for f in features if f.durations is not None]
    with (setup.torch_state(optim.threads, accelerator.device),
          setup.only_trainable(model, trainable or "all", speaker_row) as trained):
        state = _start(model.to(accelerator.device), trained, optim, out, weights)
        run = _Run(accelerator, objective if trainable != "encoder" else None, optim, iterations, out, seed, labels, features, speaker_ids,
                   aligned, aligned_first, perturbation, gain, trim)
        with _recording(run, state) as record:
            _loop(run, state, record, save_start, on_checkpoint, progress)
    return TrainResult(out, state.step, saved_checkpoints(out), time.monotonic() - began)


@dataclass
class _Run:
    """What stays the same from step to step."""

    accelerator: object
    objective: Objective | None
    optim: OptimConfig
    iterations: int
    out: Path
    seed: int
    labels: Labels
    features: Sequence[Features]
    speaker_ids: dict[str, int]
    aligned: Sequence[Features]
    aligned_first: int
    perturbation: Perturbation | None
    gain: GainEstimate | None
    trim: float


def _start(model: GradTTS, trained: list[nn.Parameter], optim: OptimConfig, out: Path, weights: ExampleWeights | None) -> State:
    optimizer = torch.optim.Adam(trained, lr=optim.learning_rate, fused=True)
    state = State(model, copy.deepcopy(model).eval() if optim.ema else None, optimizer, weights=weights)
    folder = newest_state(out)
    if folder:
        saved = read_state(folder)
        try:
            model.load_state_dict(saved.model)
            optimizer.load_state_dict(saved.optimizer)
            if state.average is not None:
                state.average.load_state_dict(saved.average)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(f"{folder}: a checkpoint of another run ({str(error).splitlines()[0]}); choose another --out") from None
        state.step = saved.step
        if weights and saved.examples:
            state.weights = weights.restored(saved.examples)
    return state


@contextmanager
def _recording(run: _Run, state: State) -> Iterator[Record | None]:
    """The run's record, in the main process."""
    if not run.accelerator.is_main_process:
        yield None
        return
    device, precision = run.accelerator.device.type, "bf16" if run.accelerator.mixed_precision == "bf16" else "float32"
    write_environment(run.out, device=device, precision=precision, processes=run.accelerator.num_processes)
    record = Record(run.out, step=state.step)
    record.event("resume" if state.step else "start", step=state.step, utterances=len(run.features),
                 aligned=len(run.aligned), iterations=run.iterations)
    try:
        yield record
    finally:
        record.close()


def _loop(run: _Run, state: State, record: Record | None, save_start: bool, on_checkpoint: OnCheckpoint | None,
          progress: Progress | None) -> None:
    # several processes exchange gradients while these are computed, which a graph would not wait for
    graphed = run.optim.cuda_graphs and run.accelerator.device.type == "cuda" and run.accelerator.num_processes == 1
    loss = run.accelerator.prepare(Loss(state.model, run.objective, run.optim, run.perturbation, run.trim, graphed=graphed))
    if state.step or save_start:
        _checkpoint(run, state, record, on_checkpoint, write=not state.step)
    while state.step < run.iterations:
        began = time.monotonic()
        if run.gain and run.gain.due(state.step):
            state.weights = run.gain.weights(state.model)
            if record:
                run.gain.tell(state.weights)
        metrics = _step(run, state, loss) | {"seconds": time.monotonic() - began}
        if not all(math.isfinite(metrics[name]) for name in (*TERMS, "encoder_norm", "decoder_norm")):
            raise ValueError(f"the loss is not finite at step {state.step} ({', '.join(f'{n} {metrics[n]:g}' for n in TERMS)}); "
                             "lower optim.learning_rate, or set optim.precision to float32")
        if record:
            record.metrics(metrics)
        if progress and run.accelerator.is_main_process:
            progress(state.step, run.iterations, metrics)
        if state.step % run.optim.checkpoint_every == 0 or state.step == run.iterations:
            _checkpoint(run, state, record, on_checkpoint, write=True)


def _step(run: _Run, state: State, loss: nn.Module) -> dict:
    """One optimizer step; its metrics are means over the processes."""
    optim, accelerator = run.optim, run.accelerator
    seed = step_seed(run.seed, state.step, accelerator.process_index)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rate = learning_rate(optim, step=state.step, iterations=run.iterations)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    batch = _batch(run, state.step)
    terms = loss(batch, generator, state.weights and state.weights.of(batch.keys, accelerator.device))
    accelerator.backward(sum(terms.values()))
    norms = [nn.utils.clip_grad_norm_(part.parameters(), optim.clip) for part in (state.model.encoder, state.model.decoder)]
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        ema.update(state.average, state.model, decay=optim.ema, step=state.step)
    state.step += 1
    means = accelerator.reduce(torch.stack([terms[name].detach() for name in TERMS]), reduction="mean")
    # of a part that nothing reached, the norm lies on the CPU
    values = torch.cat([means, torch.stack([norm.to(means) for norm in norms])]).tolist()
    return {"step": state.step, **dict(zip((*TERMS, "encoder_norm", "decoder_norm"), values, strict=True)), "lr": rate}


def _batch(run: _Run, step: int) -> Batch:
    """The batch of a step and process; while alignments are taught, of aligned utterances."""
    pool = (run.aligned if step < run.aligned_first else None) or run.features
    processes, size = run.accelerator.num_processes, run.optim.batch_size
    indices = batch_indices(len(pool), processes * size, seed=run.seed, step=step)
    own = indices[run.accelerator.process_index::processes]
    return collate([pool[i] for i in own], run.speaker_ids).to(run.accelerator.device)


def _checkpoint(run: _Run, state: State, record: Record | None, on_checkpoint: OnCheckpoint | None, *, write: bool) -> None:
    if record:
        folder = checkpoint_folder(run.out, state.step)
        model = state.model if state.average is None else state.average
        checkpoint = Checkpoint(model=model, text=run.labels.text, speakers=run.labels.speakers, step=state.step,
                                embeddings=run.labels.embeddings, default_speaker=run.labels.default_speaker, extra={})
        if write:
            record.event("checkpoint", step=state.step)
            record.sync()
            write_checkpoint(folder, checkpoint, model=state.model, average=state.average, optimizer=state.optimizer,
                             examples=state.weights.state() if run.gain else None)
            keep_newest(run.out, states=run.optim.keep, models=run.optim.keep_models)
        if on_checkpoint:
            modes = [(module, module.training) for module in model.modules()]
            on_checkpoint(folder, checkpoint)
            for module, mode in modes:
                module.training = mode
    run.accelerator.wait_for_everyone()
