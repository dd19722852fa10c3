"""The original Grad-TTS beside ours: imported from the folder that the user names, its alignment search built into another one."""
from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

# what its model/monotonic_align imports its built search as
SEARCH = "model.monotonic_align.model.monotonic_align.core"
BUILD = """
import sys
import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

flags = ["-O3", "-fopenmp"]
module = Extension("core", [sys.argv.pop()], include_dirs=[numpy.get_include()], extra_compile_args=flags, extra_link_args=flags)
setup(name="core", ext_modules=cythonize([module], quiet=True), script_args=["-q", "build_ext", "--inplace"])
"""


def check(folder: Path) -> None:
    """Refuses a folder that is not the original Grad-TTS.

    Raises:
        FileNotFoundError, ValueError: no such folder, another one, or a package that it imports is missing.
    """
    if not (folder / "model" / "monotonic_align" / "core.pyx").is_file():
        raise FileNotFoundError(f"{folder}: not the original Grad-TTS, it has no model/monotonic_align/core.pyx; "
                                "give the folder Grad-TTS of huawei-noah/Speech-Backbones")
    if importlib.util.find_spec("einops") is None:
        raise ValueError("the original imports einops, which is not installed; pip install 'gradtts-robust[bench]'")


def build_search(original: Path, folder: Path) -> str:
    """Builds the original's Cython alignment search with OpenMP into `folder`; gives why not, or nothing."""
    if importlib.util.find_spec("Cython") is None:
        return "Cython is not installed; pip install 'gradtts-robust[bench]'"
    source = folder / "core.pyx"
    source.write_bytes((original / "model" / "monotonic_align" / "core.pyx").read_bytes())
    built = subprocess.run([sys.executable, "-c", BUILD, str(source)], cwd=folder, capture_output=True, text=True)
    if built.returncode or not list(folder.glob("core.*.so")):
        return (built.stderr.strip().splitlines() or ["no compiler output"])[-1]
    return ""


def load(original: Path, search: Path | None):
    """The original's package `model`; where its search is not built, ours does its work.

    Args:
        original: its folder.
        search: folder of `build_search`.
    """
    if "model" not in sys.modules:
        sys.path.insert(0, str(original))
        for name in ("model.monotonic_align.model", "model.monotonic_align.model.monotonic_align"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules[SEARCH] = _built(search) if search else _ours()
    return importlib.import_module("model")


def _built(folder: Path):
    spec = importlib.util.spec_from_file_location("core", next(folder.glob("core.*.so")))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _ours():
    import torch

    from gradtts_robust.model.alignment import durations_to_path, search_durations

    def maximum_path_c(paths, values, symbols, frames) -> None:
        durations = search_durations(torch.from_numpy(values), torch.from_numpy(symbols), torch.from_numpy(frames))
        paths[:] = durations_to_path(durations, values.shape[2]).numpy()

    module = types.ModuleType(SEARCH)
    module.maximum_path_c = maximum_path_c
    return module
