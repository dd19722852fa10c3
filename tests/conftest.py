"""Where tests find data that the project does not ship, and how many threads they use."""
import os
import sys
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def _folder(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{path.name} is not there; set {variable} to its folder")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Reference values of the original Grad-TTS and HiFi-GAN."""
    return _folder("GRADTTS_GOLDEN", SHARED / "golden")


@pytest.fixture(scope="session")
def librispeech() -> Path:
    """A LibriSpeech root with `test-other` and `train-clean-100`."""
    return _folder("LIBRISPEECH_ROOT", SHARED / "LibriSpeech")


@pytest.fixture
def one_thread():
    """Sums in one order whatever the machine: where rounding is amplified, two threads differ from one by more than a tolerance."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def without_lazy_modules():
    """Takes back speechbrain's placeholders in `sys.modules`: they import what is not installed when hypothesis walks over them."""
    yield
    for name, module in list(sys.modules.items()):
        if type(module).__name__ in ("LazyModule", "DeprecatedModuleRedirect"):
            del sys.modules[name]
