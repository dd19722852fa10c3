"""Every setting, as typed dataclasses: the command line, the YAML recipes and the checkpoints are made of these.

Imports nothing heavy, so that `gradtts-robust --help` stays quick.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .config_conditions import ConditioningConfig as ConditioningConfig
from .config_conditions import ConditionNoiseConfig as ConditionNoiseConfig
from .config_corruption import CorruptionConfig as CorruptionConfig
from .config_study import DemoConfig as DemoConfig
from .config_study import FilteringConfig as FilteringConfig
from .config_values import from_dict as from_dict

# `griffin-lim`, `vocoder-small` or a path
DEFAULT_VOCODER = "vocoder-small"


@dataclass
class TextConfig:
    """How text becomes symbol ids.

    Args:
        frontend: `grad-tts`, the original's cleaners and dictionary look-up, or `arpabet`, ours.
        blanks: put the blank symbol before, between and after all symbols, as the original does.
        edges: put a space at both ends, so that silence around the speech has a symbol to belong to.
    """

    frontend: Literal["grad-tts", "arpabet"] = "arpabet"
    blanks: bool = False
    edges: bool = True


@dataclass
class ModelConfig:
    """Shape of the network. The defaults are the original's (arXiv 2105.06337); presets are in `PRESETS`.

    Args:
        n_symbols: rows of the symbol table, the blank included.
        n_speakers: rows of the speaker table; 1 means a single-speaker model without a table.
        speaker_dim: width of a speaker's row.
        speaker_conditioning: where the rows come from: a learnt `table`, as in the original, or a learnt projection of the speakers'
            Resemblyzer embeddings (`embedding`), which has a row for every voice.
        embedding_dim: width of those embeddings.
        encoder_channels, encoder_filter, duration_filter: widths of the encoder, its feed-forward layers, the duration predictor.
        encoder_heads, encoder_layers, encoder_kernel, encoder_window: relative self-attention and its feed-forward kernel.
        encoder_dropout: in [0, 1), in the encoder and the duration predictor.
        condition_encoder: give the encoder and the duration predictor the speaker, which the original's constructor forgets.
        decoder: `grad-tts`, the original's score U-Net, or `lean`, a smaller one over a 2 x 2 pixel-unshuffled mel.
        decoder_dim: base width of the `grad-tts` U-Net.
        decoder_dims: widths per resolution of the `lean` U-Net.
        beta_min, beta_max: noise schedule, B(t) = beta_min t + (beta_max - beta_min) t^2 / 2.
        pe_scale: multiplies t in the sinusoidal time embedding: 1000, or 1 for the original's first single-speaker checkpoints.
        pause_symbol: id of the space between words, in which alignment search may hear silence as at an utterance's edges; None, as in
            the original, for a symbol like all others.
        mel_mean, mel_std: centre and scale of log-mel values, natural log; the `lean` U-Net normalises mu with them.
    """

    n_symbols: int = 149
    n_speakers: int = 1
    speaker_dim: int = 64
    speaker_conditioning: Literal["table", "embedding"] = "table"
    embedding_dim: int = 256
    encoder_channels: int = 192
    encoder_filter: int = 768
    duration_filter: int = 256
    encoder_heads: int = 2
    encoder_layers: int = 6
    encoder_kernel: int = 3
    encoder_window: int = 4
    encoder_dropout: float = 0.1
    condition_encoder: bool = False
    decoder: Literal["grad-tts", "lean"] = "grad-tts"
    decoder_dim: int = 64
    decoder_dims: tuple[int, ...] = (32, 64, 128)
    beta_min: float = 0.05
    beta_max: float = 20.0
    pe_scale: float = 1000.0
    pause_symbol: int | None = None
    mel_mean: float = -5.0
    mel_std: float = 2.0


PRESETS = {
    "full": {"condition_encoder": True},
    "small": {
        "encoder_channels": 128, "encoder_filter": 256, "duration_filter": 192, "encoder_layers": 4,
        "condition_encoder": True, "decoder": "lean",
    },
}


@dataclass
class ObjectiveConfig:
    """The diffusion loss: penalty(residual, delta(t)) x weight(snr), see `gradtts_robust.losses`.

    The paper's robust setting (arXiv 2403.16728) is `penalty=pseudo_huber, delta_schedule=exponential, delta_0=0.1`.

    Args:
        penalty: l2, l1, pseudo_huber, pseudo_huber_old, smooth_l1, huber or barron.
        penalty_options: its own, such as barron's `alpha`.
        delta_schedule: constant, exponential, exponential_backward, snr, linear, cosine; or `calibrated`: delta(t) is `kappa` x the
            `quantile` of what the model before training errs by at t on these data, see `training.calibration`.
        delta_0: in (0, 1], the schedule's delta at full noise.
        delta_scale: multiplies the schedule.
        kappa, quantile: of `calibrated`: > 0, and in (0, 1).
        weighting: constant, debias, min_snr, p2 or inverse_snr.
        weighting_options: its own, such as min_snr's `gamma`.
        weighting_clamp: largest weight before normalisation.
        normalise_weighting: divide by the mean weight over uniform t.
        level: where the penalty acts: mel bins, frames, what an utterance's frames have in common, or the whole example.
        matched: squared error weighted over t as the penalty weighs residuals that are small, or of size 1 (`unit` or true).
        example_weights: in adaptation, trust each utterance only as far as its voice is the majority's, nothing else is heard and its
            text fits (`joint`; `em` likewise, by a mixture); only as its voice agrees (`agreement`), as it is learnt like most (`gain`),
            or by these two (`both`). Voices are told apart by Resemblyzer: judge by another encoder too. See `training.weights`.
        gain_warmup, gain_every: steps before the first estimate of the gain, and between two.
    """

    penalty: str = "l2"
    penalty_options: dict[str, float] = field(default_factory=dict)
    delta_schedule: str = "exponential"
    delta_0: float = 0.1
    delta_scale: float = 1.0
    kappa: float = 1.0
    quantile: float = 0.9
    weighting: str = "constant"
    weighting_options: dict[str, float] = field(default_factory=dict)
    weighting_clamp: float | None = None
    normalise_weighting: bool = True
    level: Literal["bin", "frame", "pooled", "example"] = "bin"
    matched: bool | Literal["small", "unit"] = False
    example_weights: Literal["none", "joint", "em", "agreement", "gain", "both"] = "none"
    gain_warmup: int = 60
    gain_every: int = 20


@dataclass
class OptimConfig:
    """The training loop's settings, one set for pretraining and adaptation.

    Args:
        batch_size: utterances per step and process.
        segment_frames: frames per utterance that the score network sees, a multiple of 8, or of 4 for the `grad-tts` decoder.
        timesteps: a time t of its own for every example of a batch: `uniform`, or `stratified`, one in each B-th of the range.
        learning_rate: Adam's, reached after `warmup` steps, then constant, or falling by a cosine to a tenth at the end with `decay`.
        clip: largest gradient norm, of the encoder and of the decoder apart, as the original clips.
        ema: decay of the averaged weights; 0 turns averaging off.
        precision: `bf16` autocast, `float32`, or `auto`: bf16 where the hardware computes it.
        checkpoint_every: steps between checkpoints.
        keep: newest checkpoints kept with their optimizer state, from which a run can go on; 0 keeps all.
        keep_models: newest checkpoints whose weights are kept; 0 keeps all.
        threads: torch's CPU threads; 0 leaves torch's own choice.
        compile: the score network by torch.compile: a minute at the start, for long trainings on a GPU; rounds otherwise.
        cuda_graphs: on one GPU, record the score network's kernels once and replay them, instead of launching each from Python.
    """

    batch_size: int = 16
    segment_frames: int = 64
    timesteps: Literal["uniform", "stratified"] = "uniform"
    learning_rate: float = 3e-4
    warmup: int = 0
    decay: bool = False
    clip: float = 1.0
    ema: float = 0.0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    checkpoint_every: int = 50
    keep: int = 2
    keep_models: int = 0
    threads: int = 0
    compile: bool = False
    cuda_graphs: bool = True


@dataclass
class PretrainConfig:
    """`gradtts-robust pretrain`: a base from manifests of many speakers.

    Args:
        manifests: manifest files; the embedded corpus' is made by `gradtts-robust corpus embedded`.
        out: run folder.
        preset: `small` or `full`; `model` overrides single settings of it.
        iterations: optimizer steps.
        aligned_first: steps at the start that see only utterances whose durations are known (espeak's phoneme events).
        init: checkpoint to start from, of the same speakers; empty to start from random weights.
        train: what is trained: `all`, or `encoder` (with durations and speaker table; the score network is not even run).
        draw: utterances to train on: `all`, or those `unaligned` so far.
        speaker_rows: what a speaker table starts from: the speakers' Resemblyzer embeddings, where they are known, or random rows.
            `model.speaker_conditioning: embedding` projects the embeddings instead, also those of an `init` with a table.
        keep_alignments: align once, by `init`, what has no durations, and train on these without searching again.
        max_seconds: with `keep_alignments`, cut longer utterances at their pauses; 0 leaves them whole.
        cache: folder of cached features; empty for `features` beside the run.
    """

    manifests: list[str] = field(default_factory=list)
    out: str = "runs/base"
    preset: str = "small"
    model: dict = field(default_factory=dict)
    text: TextConfig = field(default_factory=TextConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    corruption: ConditionNoiseConfig = field(default_factory=ConditionNoiseConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(
        learning_rate=5e-4, warmup=200, decay=True, ema=0.999, checkpoint_every=500, keep_models=3))
    iterations: int = 20000
    aligned_first: int = 1000
    init: str = ""
    train: Literal["all", "encoder"] = "all"
    draw: Literal["all", "unaligned"] = "all"
    speaker_rows: Literal["embedding", "random"] = "embedding"
    keep_alignments: bool = False
    max_seconds: float = 0.0
    cache: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0


@dataclass
class EvaluationConfig:
    """How a checkpoint is judged: unseen sentences are spoken and compared with held-out clean speech of the target.

    Args:
        sentences: how many of the project's test sentences to speak, or a text file's path, one sentence a line.
        reference_utterances: clean utterances of the target kept out of training as the reference.
        encoder: speaker encoder, `resemblyzer` or `ecapa`.
        encoder_source: for `ecapa`: a .safetensors file, a folder or a hub name; by default the shipped weights, `ecapa-small` in tables.
        vocoder: `griffin-lim`, `vocoder-small` or the path of a vocoder's or a HiFi-GAN generator's checkpoint.
        steps, solver, temperature, length_scale: of the reverse process and of the durations.
        thresholds: similarities below which samples are counted.
    """

    sentences: str = "6"
    reference_utterances: int = 3
    encoder: str = "resemblyzer"
    encoder_source: str = ""
    vocoder: str = DEFAULT_VOCODER
    steps: int = 10
    solver: Literal["ode", "sde", "dpmpp_2m"] = "ode"
    temperature: float = 1.5
    length_scale: float = 1.0
    thresholds: tuple[float, ...] = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85)


@dataclass
class AdaptConfig:
    """`gradtts-robust adapt`: a base learns a new speaker.

    Args:
        base: checkpoint of the multi-speaker base; empty for the shipped one.
        manifest: utterances of the target and, for corruption, of others.
        speaker: the target's name in the manifest.
        out: run folder.
        train: what is trained: `all`, `decoder` (score network and speaker row) or `speaker` (the row alone).
        utterances: how many of the target's utterances to train on, reference excluded; 0 for all.
        iterations: optimizer steps.
        cache: folder of cached features and speaker embeddings; empty for `features` beside the run.
    """

    base: str = ""
    manifest: str = ""
    speaker: str = ""
    out: str = "runs/adapt"
    train: Literal["all", "decoder", "speaker"] = "all"
    utterances: int = 0
    iterations: int = 350
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    filtering: FilteringConfig = field(default_factory=FilteringConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cache: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
