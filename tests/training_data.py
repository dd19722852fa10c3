"""Small real and small made-up data for the tests of training. The corpus is espeak's, spoken once per test run."""
import tempfile
from functools import cache
from pathlib import Path

import torch

from gradtts_robust.config import ModelConfig, OptimConfig, TextConfig
from gradtts_robust.data.dataset import Features
from gradtts_robust.data.generated import generate
from gradtts_robust.model.gradtts import GradTTS

TINY = {"encoder_channels": 16, "encoder_filter": 16, "duration_filter": 16, "encoder_layers": 1, "speaker_dim": 8,
        "condition_encoder": True, "decoder": "lean", "decoder_dims": (8, 8, 8)}
SPEAKERS = ["anna", "ben", "cleo"]
TARGET = "steph"
BASE_VOICES = ("Alex", "Annie", "Reed")


def tiny_model(**changes) -> GradTTS:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GradTTS(ModelConfig(**{**TINY, "n_speakers": 3, **changes}))


def tiny_features(count: int = 7, *, aligned: bool = True) -> list[Features]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        symbols = int(torch.randint(5, 15, (1,), generator=generator))
        durations = torch.randint(1, 8, (symbols,), generator=generator)
        ids = torch.randint(0, 148, (symbols,), generator=generator)
        mel = 2 * torch.randn(80, int(durations.sum()), generator=generator) - 5
        made.append(Features(ids, mel, durations if aligned else None, f"u{i}", SPEAKERS[i % 3]))
    return made


def tiny_optim(**changes) -> OptimConfig:
    return OptimConfig(**{"batch_size": 2, "segment_frames": 16, "precision": "float32", "checkpoint_every": 3, "threads": 1, **changes})


def train_settings(**changes) -> dict:
    return {"iterations": 8, "seed": 0, "device": "cpu", "text": TextConfig(), "speakers": SPEAKERS, **changes}


@cache
def corpus() -> Path:
    """Manifest of four voices with six sentences each."""
    folder = Path(tempfile.mkdtemp(prefix="gradtts-corpus-"))
    return generate(folder, voices=[*BASE_VOICES, TARGET], sentences_per_voice=6)
