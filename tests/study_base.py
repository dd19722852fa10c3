"""A base small enough to adapt within seconds, and a reader of reports. Random weights: what it says is noise of a plausible length."""
import base64
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import soundfile
import torch

from gradtts_robust.config import AdaptConfig, CorruptionConfig, EvaluationConfig, ModelConfig, OptimConfig, TextConfig
from gradtts_robust.model.gradtts import GradTTS
from gradtts_robust.training.checkpoint import Checkpoint, save_checkpoint

VOID = {"meta", "br", "img", "link", "input", "hr"}
SPEAKERS = ["first", "second", "third"]


def tiny_base(path: Path) -> Path:
    """Writes the checkpoint and gives its path."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GradTTS(ModelConfig(
            n_speakers=3, speaker_dim=16, encoder_channels=32, encoder_filter=32, duration_filter=32, encoder_layers=1,
            condition_encoder=True, decoder="lean", decoder_dims=(8, 8, 8))).eval()
        embeddings = torch.nn.functional.normalize(torch.rand(3, 256), dim=1)
    with torch.no_grad():
        model.encoder.proj_m.bias.fill_(-5)
        model.encoder.proj_w.proj.bias.fill_(1.5)
    return save_checkpoint(path, Checkpoint(model=model, text=TextConfig(), speakers=SPEAKERS, step=0, embeddings=embeddings,
                                            default_speaker=None, extra={}))


def tiny_adaptation(base: Path, manifest: Path, out: Path, **changes) -> AdaptConfig:
    """Two sentences, four steps, a checkpoint after every second one."""
    settings = {
        "base": str(base), "manifest": str(manifest), "speaker": "Andrea", "out": str(out), "utterances": 4, "iterations": 4,
        "corruption": CorruptionConfig(kind="foreign", fraction=0.5), "device": "cpu", "cache": str(manifest.parent / "features"),
        "optim": OptimConfig(batch_size=2, segment_frames=32, checkpoint_every=2, threads=1),
        "evaluation": EvaluationConfig(sentences="2", reference_utterances=2, steps=2),
    }
    return AdaptConfig(**settings | changes)


class Page(HTMLParser):
    """What a page shows, and every address that it would load."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.addresses, self.alts, self.open, self.text = Counter(), [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        values = dict(attrs)
        self.addresses += [values[name] for name in ("src", "href", "xlink:href", "data", "poster", "action") if values.get(name)]
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check_page(path: Path) -> Page:
    """Reads a report: well nested, one file, every picture with words, every sound playable."""
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert not page.open
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import|<link|<script|https?://(?!www\.w3\.org/)", source)
    assert page.tags["svg"] >= 3 and all(page.alts)
    identities = re.findall(r'\bid="([^"]+)"', source)
    assert len(identities) == len(set(identities))
    for address in page.addresses:
        kind, content = address.split(",", 1) if address.startswith("data:audio") else ("", "")
        if kind:
            wave, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
            assert rate == 22050 and len(wave) > 1000
    return page
