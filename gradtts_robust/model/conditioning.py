"""Who is speaking: the table of speaker rows, and how a new speaker gets one."""
from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
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


def add_speaker(model: GradTTS, row: Tensor) -> GradTTS:
    """A copy of the model that knows one speaker more, whose id is the old `config.n_speakers`.

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
    extended.config = dataclasses.replace(model.config, n_speakers=model.config.n_speakers + 1)
    return extended


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
