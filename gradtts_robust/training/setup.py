"""What a run stands on: device, precision, threads, random state, and which parameters may move."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..config import ModelConfig, OptimConfig
from ..model.gradtts import FRAME_MULTIPLES, GradTTS

TRAINABLE = ("all", "encoder", "decoder", "speaker")


def check_settings(optim: OptimConfig, *, iterations: int, seed: int, decoder: str = "") -> None:
    """Refuses settings outside their range.

    Args:
        decoder: the model's score network; empty where it is not known yet.

    Raises:
        ValueError: names the setting, its value and its range.
    """
    least = {"batch_size": 1, "segment_frames": 8, "warmup": 0, "checkpoint_every": 1, "keep": 0, "keep_models": 0, "threads": 0}
    values = {f"optim.{name}": (getattr(optim, name), low) for name, low in least.items()}
    for name, (value, low) in {**values, "iterations": (iterations, 1)}.items():
        if value < low:
            raise ValueError(f"{name} is {value}; it must be at least {low}")
    # every sentence is spoken with a seed of its own, counted from this one
    check_seed(seed, below=2**31)
    multiple = FRAME_MULTIPLES.get(decoder, min(FRAME_MULTIPLES.values()))
    if optim.segment_frames % multiple:
        raise ValueError(f"optim.segment_frames is {optim.segment_frames}; it must be a multiple of {multiple}, as the U-Net halves it")
    for name in ("learning_rate", "clip"):
        if not getattr(optim, name) > 0:
            raise ValueError(f"optim.{name} is {getattr(optim, name)}; it must be above 0")
    if not 0 <= optim.ema < 1:
        raise ValueError(f"optim.ema is {optim.ema}; it must lie in [0, 1)")
    if optim.precision not in ("auto", "bf16", "float32"):
        raise ValueError(f"optim.precision is {optim.precision!r}; choose auto, bf16 or float32")
    if optim.timesteps not in ("uniform", "stratified"):
        raise ValueError(f"optim.timesteps is {optim.timesteps!r}; choose uniform or stratified")


def check_seed(seed: int, *, below: int = 2**32) -> None:
    """Refuses a seed outside [0, `below`), by default what every library takes, with ValueError."""
    if not 0 <= seed < below:
        raise ValueError(f"seed is {seed}; it must be at least 0 and below {below}")


def resolve_device(name: str) -> str:
    """`cpu` or `cuda`; `auto` is `cuda` where there is a GPU.

    Raises:
        ValueError: another name, or `cuda` without a GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {name!r}; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU here; use --device cpu")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def resolve_precision(name: str, device: str, model: ModelConfig) -> str:
    """`bf16` or `float32`; `auto` is `bf16` where that is faster.

    On a CPU that is where it multiplies bf16 itself, and with the `lean` decoder, whose channels-last convolutions gain by it.
    """
    if name != "auto":
        return name
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if model.decoder == "lean" and cpu_multiplies_bf16() else "float32"


def cpu_multiplies_bf16() -> bool:
    """Whether the processor has AVX-512 or AMX instructions for bf16."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def make_accelerator(device: str, precision: str, model: ModelConfig):
    """An `accelerate.Accelerator` for resolved or `auto` device and precision.

    accelerate keeps one state per process and refuses a second one with other settings, but a study trains many models in one
    process, so a state of earlier runs is dropped first, except the link between processes.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device = resolve_device(device)
    AcceleratorState._reset_state(reset_partial_state=int(os.environ.get("WORLD_SIZE", "1")) == 1)
    mixed = "bf16" if resolve_precision(precision, device, model) == "bf16" else "no"
    return Accelerator(mixed_precision=mixed, cpu=device == "cpu")


@contextmanager
def torch_state(threads: int, device: torch.device) -> Iterator[None]:
    """Sets torch's threads (0 leaves the caller's), and gives the caller's global random state and thread count back at the end.

    Meanwhile float32 is float32 on a GPU too, where torch by itself rounds the factors of convolutions to the 10 bits of TF32.
    """
    before, rounding = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_num_threads(threads or before)
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.backends.cudnn.allow_tf32 = rounding


@contextmanager
def only_trainable(model: GradTTS, trainable: str, speaker_row: int | None) -> Iterator[list[nn.Parameter]]:
    """Freezes what is not to be trained and gives the parameters that are; at the end all may move again.

    A frozen part runs without dropout: it is the part that is to be kept as it speaks.

    Args:
        trainable: `all`, `encoder` (with the speaker table), `decoder` (score network and speaker table) or `speaker` (the table).
        speaker_row: the only row of the table that gets a gradient; None for all.

    Raises:
        ValueError: another name, or `speaker` for a model without a table.
    """
    table = model.spk_emb if model.config.n_speakers > 1 else None
    if trainable not in TRAINABLE:
        raise ValueError(f"train is {trainable!r}; choose one of {', '.join(TRAINABLE)}")
    if trainable == "speaker" and table is None:
        raise ValueError("train is 'speaker', but a single-speaker model has no speaker table; choose all or decoder")
    parts = {"all": [model], "encoder": [model.encoder, table], "decoder": [model.decoder, table], "speaker": [table]}[trainable]
    trained = [p for part in parts if part is not None for p in part.parameters()]
    chosen = {id(p) for p in trained}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    model.eval()
    for part in parts:
        if part is not None:
            part.train()
    masked = table is not None and speaker_row is not None
    handle = table.weight.register_hook(lambda grad: _row_alone(grad, speaker_row)) if masked else None
    try:
        yield trained
    finally:
        if handle:
            handle.remove()
        model.requires_grad_(True).eval()


def _row_alone(grad: Tensor, row: int) -> Tensor:
    alone = torch.zeros_like(grad)
    alone[row] = grad[row]
    return alone
