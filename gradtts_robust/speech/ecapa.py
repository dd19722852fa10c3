"""Loads speechbrain's ECAPA-TDNN classifier from a folder or the hub.

speechbrain from 1.1 imports with torchaudio 2.11; before that it called `torchaudio.list_audio_backends`, which is gone.
"""
from __future__ import annotations

import os
import re
from pathlib import Path

import torch

HPARAMS = "hyperparams.yaml"


def load_classifier(source: str | os.PathLike, device: torch.device):
    """Makes the classifier that `source` describes.

    Args:
        source: a folder with `hyperparams.yaml` and the weights that it names, or a hub name such as
            `speechbrain/spkrec-ecapa-voxceleb`; hub files are kept in the hub's own cache.
        device: where it computes.

    Returns:
        speechbrain's `EncoderClassifier`, in evaluation mode.

    Raises:
        FileNotFoundError: a path that is no folder, or a folder without `hyperparams.yaml`.
        ValueError: the hub cannot be reached or has no such model, or the files do not make one.
    """
    folder = Path(source).expanduser()
    overrides = {}
    if folder.is_dir():
        if not (folder / HPARAMS).is_file():
            raise FileNotFoundError(f"{folder}: no {HPARAMS} in it; give the folder of a speechbrain encoder as source")
        overrides = _keep_local(folder)
        origin = str(folder)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not str(source).startswith("."):
        origin = str(source)
    else:
        raise FileNotFoundError(f"{source}: no such folder, and no hub name (OWNER/NAME); correct the encoder's source")
    try:
        from speechbrain.inference.speaker import EncoderClassifier
        from speechbrain.utils.fetching import LocalStrategy
    except (ImportError, AttributeError) as error:
        raise ValueError(f"speechbrain cannot be imported ({_first_line(error)}): pip install 'speechbrain>=1.1,<2'") from error
    try:
        if not folder.is_dir():
            _require_hub(origin)
        # without links nothing is written to the working folder, where speechbrain would make `pretrained_models`
        classifier = EncoderClassifier.from_hparams(
            source=origin, savedir=None, overrides=overrides, local_strategy=LocalStrategy.NO_LINK,
            run_opts={"device": str(device)})
    except Exception as error:  # a hub client and a YAML that builds objects: anything may come out of them
        if folder.is_dir():
            raise ValueError(f"{folder}: no usable ECAPA encoder ({_first_line(error)})") from error
        raise ValueError(f"speaker encoder source {origin!r} cannot be fetched from the hub ({_first_line(error)}); "
                         f"give a local folder with {HPARAMS} and its weights as source") from error
    return classifier.eval()


def _require_hub(name: str) -> None:
    """Fails at once where a model is neither in the hub's cache nor reachable; a download would retry for half a minute."""
    import huggingface_hub

    if not isinstance(huggingface_hub.try_to_load_from_cache(name, HPARAMS), str):
        huggingface_hub.HfApi().model_info(name, timeout=10)


def _keep_local(folder: Path) -> dict[str, str]:
    """A downloaded copy's YAML still names the hub for its weights; this points it to the folder itself."""
    text = (folder / HPARAMS).read_text(encoding="utf-8", errors="replace")
    named = re.search(r"^pretrained_path:\s*([^\s#]+)", text, flags=re.MULTILINE)
    if named and not Path(named[1].strip("'\"")).is_dir():
        return {"pretrained_path": str(folder)}
    return {}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
