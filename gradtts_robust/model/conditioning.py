"""Who is speaking: the table of speaker rows, how a new speaker gets one, and perturbation of conditions in training."""
from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from gradtts_robust.config import ConditioningConfig, ModelConfig
    from gradtts_robust.model.gradtts import GradTTS


class SpeakerTable(nn.Embedding):
    """A learnt row per speaker, [n_speakers, speaker_dim]."""

    def extended(self, row: Tensor) -> SpeakerTable:
        """A copy with `row` [speaker_dim] as one speaker more, at the end; on the same device, in the same dtype."""
        if row.shape != (self.embedding_dim,):
            raise ValueError(f"a speaker's row has shape {tuple(row.shape)}; this model's table needs ({self.embedding_dim},)")
        rows = torch.cat([self.weight.detach(), row.detach().to(self.weight).unsqueeze(0)])
        table = SpeakerTable(len(rows), self.embedding_dim, _weight=rows)
        table.weight.requires_grad_(self.weight.requires_grad)
        return table.train(self.training)


class ProjectedSpeakers(nn.Module):
    """Rows that are a learnt linear function of the speakers' embeddings, so that an unheard voice has a row too.

    A row is W sqrt(D) e + b for a unit embedding e [D]: sqrt(D) gives e a mean square of 1, as Adam's step size expects.

    Args:
        n_speakers: rows.
        embedding_dim: D.
        speaker_dim: width of a row.
    """

    def __init__(self, n_speakers: int, embedding_dim: int, speaker_dim: int):
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(n_speakers, embedding_dim))
        self.projection = nn.Linear(embedding_dim, speaker_dim)

    def forward(self, speakers: Tensor) -> Tensor:
        """Rows [B, speaker_dim] of speaker ids [B]."""
        return self.row(self.embeddings[speakers])

    def row(self, embedding: Tensor) -> Tensor:
        """The row of a unit embedding [..., D], whether or not it is one of the table's."""
        return self.projection(embedding.to(self.projection.weight) * embedding.shape[-1] ** 0.5)

    @property
    def weight(self) -> Tensor:
        """All rows [n_speakers, speaker_dim]."""
        return self.row(self.embeddings)

    @torch.no_grad()
    def fit(self, embeddings: Tensor, rows: Tensor, *, ridge: float = 1e-3) -> None:
        """Takes the speakers' unit embeddings [N, D], and the projection that comes nearest to their rows [N, speaker_dim].

        Args:
            ridge: penalty on W relative to the largest eigenvalue of the centred embeddings' scatter: rows of N < D speakers
                could be met exactly by weights that mean nothing for the next speaker.
        """
        scaled = embeddings.double() * embeddings.shape[1] ** 0.5
        centre, middle = scaled.mean(0), rows.double().mean(0)
        left, spread, axes = torch.linalg.svd(scaled - centre, full_matrices=False)
        shrunk = spread / (spread.square() + ridge * spread[0].square())
        weight = ((left * shrunk).T @ (rows.double() - middle)).T @ axes
        self.embeddings.copy_(embeddings)
        self.projection.weight.copy_(weight)
        self.projection.bias.copy_(middle - weight @ centre)

    def extended(self, row: Tensor) -> SpeakerTable:
        """The rows as a table, with `row` [speaker_dim] as one speaker more: what adapts to one voice moves that row alone."""
        rows = self.weight.detach()
        return SpeakerTable(*rows.shape, _weight=rows).train(self.training).extended(row)


def speaker_rows(config: ModelConfig) -> nn.Module:
    """What gives speaker ids their rows, as `config.speaker_conditioning` says.

    Raises:
        ValueError: another name.
    """
    if config.speaker_conditioning == "embedding":
        return ProjectedSpeakers(config.n_speakers, config.embedding_dim, config.speaker_dim)
    if config.speaker_conditioning != "table":
        raise ValueError(f"speaker_conditioning is {config.speaker_conditioning!r}; choose table or embedding")
    return SpeakerTable(config.n_speakers, config.speaker_dim)


def add_speaker(model: GradTTS, row: Tensor) -> GradTTS:
    """A copy of the model that knows one speaker more, whose id is the old `config.n_speakers`; its rows are a table.

    Args:
        model: left as it is; the copy shares no tensor with it and gives the same outputs for the old speakers.
        row: the new speaker's row [speaker_dim], e.g. from `nearest_row`.

    Raises:
        ValueError: a model without a speaker table, or a row of another width.
    """
    if model.config.n_speakers < 2:
        raise ValueError("a single-speaker model has no speaker table to extend; adapt a base of two or more speakers")
    extended = copy.deepcopy(model)
    extended.spk_emb = model.spk_emb.extended(row)
    extended.config = dataclasses.replace(model.config, n_speakers=model.config.n_speakers + 1, speaker_conditioning="table")
    return extended


def condition_on_embeddings(model: GradTTS, embeddings: Tensor) -> None:
    """Replaces a model's table, in place, by the projection of its speakers' unit embeddings [N, D] that comes nearest to its rows."""
    table, width = model.spk_emb, embeddings.shape[1]
    model.config = dataclasses.replace(model.config, speaker_conditioning="embedding", embedding_dim=width)
    model.spk_emb = speaker_rows(model.config).to(table.weight.device).train(table.training)
    model.spk_emb.fit(embeddings, table.weight.detach())


def rows_from_embeddings(embeddings: Tensor, dim: int) -> Tensor:
    """Rows to start a table from: the speakers' embeddings on their principal axes, so that voices alike start alike.

    A table of random rows has to be learnt by heart, speaker by speaker; with seconds of each that fails. An axis' spread is taken to its
    square root, between raw axes, of which the first few drown the rest, and whitened ones, which make noise as loud as voice.

    Args:
        embeddings: by a speaker encoder, [N, D], N >= 2.
        dim: width of a row; axes beyond min(N - 1, D) are zero.

    Returns:
        float32 [N, dim] of mean square 1, like a table's random rows; the sign of an axis makes its largest component positive.
    """
    centred = embeddings.double() - embeddings.double().mean(0)
    left, spread, axes = torch.linalg.svd(centred, full_matrices=False)
    used = min(dim, int((spread > 1e-6 * spread[0]).sum()))
    signs = axes[:used].gather(1, axes[:used].abs().argmax(1, keepdim=True)).sign().squeeze(1)
    rows = torch.zeros(len(embeddings), dim, dtype=torch.float64)
    rows[:, :used] = left[:, :used] * signs * spread[:used].sqrt()
    return (rows / rows.square().mean().sqrt()).float()


def nearest_row(table: nn.Embedding, embeddings: Tensor, target: Tensor, k: int = 3) -> Tensor:
    """A row to start a new speaker from: the mean of the most similar speakers' rows, weighted by similarity.

    Args:
        table: the base's speaker rows, [N, speaker_dim].
        embeddings: the base speakers' embeddings by a speaker encoder, [N, D], in the table's order.
        target: the new speaker's embedding [D], of the same encoder.
        k: speakers to take, >= 1; all where the table has fewer.

    Returns:
        [speaker_dim], without gradient, in the table's dtype. Speakers at an obtuse angle weigh nothing, unless all taken are.

    Raises:
        ValueError: shapes that do not fit, or k below 1.
    """
    if embeddings.ndim != 2 or len(embeddings) != table.num_embeddings or target.shape != embeddings.shape[1:]:
        raise ValueError(f"speaker embeddings {tuple(embeddings.shape)} and target {tuple(target.shape)} do not fit: needed are "
                         f"[{table.num_embeddings}, D], a row for each speaker of the table, and [D]")
    if k < 1:
        raise ValueError(f"k is {k}; take at least 1 speaker")
    similarity = torch.cosine_similarity(embeddings.float(), target.to(embeddings.device).float(), dim=1)
    nearest, rows = similarity.topk(min(k, len(similarity)))
    weights = nearest.clamp_min(0)
    weights = weights / weights.sum() if weights.sum() > 0 else torch.full_like(weights, 1 / len(weights))
    weight = table.weight.detach()
    return weights.to(weight) @ weight[rows.to(weight.device)]


def new_row(rows: SpeakerTable | ProjectedSpeakers, embeddings: Tensor, target: Tensor, *, k: int) -> Tensor:
    """A new speaker's row [speaker_dim], without gradient: the projection of the target's embedding where the model has one, else
    `nearest_row`."""
    if isinstance(rows, ProjectedSpeakers):
        return rows.row(target.to(rows.embeddings)).detach()
    return nearest_row(rows, embeddings, target, k)


EMBEDDED = ("uniform", "gaussian", "dropout")
PERTURBATIONS = (*EMBEDDED, "input", "smoothing")
PLACES = ("speaker", "mu", "both")


@dataclass(frozen=True)
class Perturbation:
    """What the score network is told while it learns, made less certain; fresh for every example and step.

    The text encoder and the duration predictor are told the truth. mu is perturbed before the forward process, whose mean it is, so
    that the score network always has an exact target. The draws are float32 on the generator's device and then moved.

    - `uniform`, `gaussian`: condition embedding perturbation (arXiv 2405.20494): U(-gamma / sqrt(d), gamma / sqrt(d)), or a normal
      distribution of standard deviation gamma / sqrt(d), added to an embedding of width d: a speaker's row, or a frame of mu.
    - `dropout`: an element of the embedding is 0 with probability gamma, and else divided by 1 - gamma.
    - `smoothing`: label smoothing: a speaker's row becomes (1 - gamma) row + gamma x the mean of the table's rows.
    - `input`: gamma x a second normal draw is added to the noise in X_t, and not to the target (input perturbation, arXiv 2301.11706).

    Args:
        kind: a name of `PERTURBATIONS`.
        gamma: >= 0; below 1 for `dropout` and `smoothing`. The paper ablates 0.1, 0.5, 1, 5 and 10 for its own two.
        where: `speaker`, `mu` or `both`; `input` knows no such difference.

    Raises:
        ValueError: an unknown name, or gamma out of its range.
    """

    kind: str
    gamma: float
    where: str = "speaker"

    def __post_init__(self):
        for name, value, known in (("perturbation", self.kind, PERTURBATIONS), ("where", self.where, PLACES)):
            if value not in known:
                raise ValueError(f"unknown conditioning.{name} {value!r}; known: {', '.join(known)}")
        share = self.kind in ("dropout", "smoothing")
        if not 0 <= self.gamma < (1 if share else math.inf):
            raise ValueError(f"conditioning.gamma is {self.gamma}; for {self.kind} it must be "
                             + ("a share in [0, 1)" if share else "at least 0 and finite, such as 0.1"))
        if self.kind == "smoothing" and self.where != "speaker":
            raise ValueError(f"conditioning.where is {self.where!r}, but smoothing mixes speaker rows; set it to speaker")

    @property
    def moves_speaker(self) -> bool:
        """Whether it needs a speaker table."""
        return self.kind != "input" and self.where != "mu"

    def speaker(self, rows: Tensor, table: Tensor, generator: torch.Generator | None) -> Tensor:
        """Speaker rows [B, S] as the score network sees them; `table` [n, S] holds all rows."""
        if not self.moves_speaker:
            return rows
        if self.kind == "smoothing":
            return torch.lerp(rows, table.mean(dim=0).expand_as(rows), self.gamma)
        return self._embedding(rows, rows.shape[1], generator)

    def mu(self, mu: Tensor, generator: torch.Generator | None) -> Tensor:
        """The encoder's prediction [B, 80, F] as the diffusion has it, every frame an embedding of its own."""
        return self._embedding(mu, mu.shape[1], generator) if self.kind in EMBEDDED and self.where != "speaker" else mu

    def noise(self, noise: Tensor, generator: torch.Generator | None) -> Tensor:
        """The noise [B, 80, F] that goes into X_t, where the target keeps `noise`."""
        if self.kind != "input":
            return noise
        return noise + self.gamma * torch.randn(noise.shape, generator=generator, dtype=torch.float32).to(noise)

    def _embedding(self, values: Tensor, width: int, generator: torch.Generator | None) -> Tensor:
        if self.kind == "gaussian":
            return values + self.gamma / math.sqrt(width) * torch.randn(values.shape, generator=generator, dtype=torch.float32).to(values)
        drawn = torch.rand(values.shape, generator=generator, dtype=torch.float32)
        if self.kind == "dropout":
            return values * ((drawn >= self.gamma) / (1 - self.gamma)).to(values)
        return values + self.gamma / math.sqrt(width) * (2 * drawn - 1).to(values)


def build_perturbation(config: ConditioningConfig, model: ModelConfig) -> Perturbation | None:
    """The perturbation of the settings, or None.

    Raises:
        ValueError: a setting out of its range, or a perturbed speaker for a model that has but one.
    """
    if config.perturbation == "none":
        return None
    built = Perturbation(config.perturbation, gamma=config.gamma, where=config.where)
    if built.moves_speaker and model.n_speakers == 1:
        raise ValueError(f"conditioning.where is {config.where!r}, but a single-speaker model has no speaker table; set it to mu")
    return built
