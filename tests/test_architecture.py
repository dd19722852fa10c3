"""Imports go down the list of rooms only; read from the sources, so that lazy imports inside functions count too."""
import ast
import sys
from pathlib import Path

import pytest

PACKAGE = "gradtts_robust"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE
LEAVES = {"config", "config_grid", "files"}
# room -> what it may import of the project besides itself
MAY = {
    "losses": set(),
    "speech": LEAVES,
    "model": {"losses"} | LEAVES,
    "data": {"speech"} | LEAVES,
    "training": {"losses", "speech", "model", "data"} | LEAVES,
    "study": {"losses", "speech", "model", "data", "training"} | LEAVES,
    "config": {"config_conditions", "config_corruption", "config_study", "config_values"},
    "config_conditions": set(),
    "config_corruption": set(),
    "config_study": set(),
    "config_values": set(),
    "config_grid": {"config"},
    "files": set(),
    "options": set(),
    "cli": {"", "losses", "speech", "model", "data", "training", "study", "options", "cli_study", "cli_corpus"} | LEAVES,
    "cli_corpus": {"data"} | LEAVES,
    "cli_study": {"data", "study"} | LEAVES,
    "__main__": {"cli"},
    "": {"losses", "speech", "training"},
}


def room(parts):
    """First name below the package of a file's path: a folder, or a module; '' for the package's own __init__."""
    name = parts[0].removesuffix(".py")
    return "" if name == "__init__" else name


def project_imports(source, parts):
    """Yields (line, room) for every import of the project's own modules in a source file."""
    folder = [PACKAGE, *parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[:len(folder) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(PACKAGE + "."):
            # import_module's argument, or a table of lazy imports
            names = [node.value] if all(part.isidentifier() for part in node.value.split(".")) else []
        for name in names:
            head, *rest = name.split(".")
            if head == PACKAGE and rest not in (["__version__"], ["shipped"]):  # `shipped` is data, no code
                known = rest and ((ROOT / rest[0]).is_dir() or (ROOT / f"{rest[0]}.py").is_file())
                yield node.lineno, rest[0] if known else ""


def wrong_ways(source, parts):
    mine = room(parts)
    if mine not in MAY:
        return [f"{mine} is no room of the house; see MAY in {Path(__file__).name}"]
    return [f"line {line}: {mine or PACKAGE} imports {other or PACKAGE}"
            for line, other in project_imports(source, parts) if other != mine and other not in MAY[mine]]


FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_down_only(path):
    assert wrong_ways((ROOT / path).read_text(encoding="utf-8"), path.parts) == []


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "losses").glob("*.py"))])
def test_losses_need_torch_alone(name):
    tree = ast.parse((ROOT / "losses" / name).read_text(encoding="utf-8"))
    outside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            outside.add(node.module.split(".")[0])
    assert outside - set(sys.stdlib_module_names) - {PACKAGE} <= {"torch"}


@pytest.mark.parametrize(("source", "path", "wrong"), [
    ("from gradtts_robust.model.unet import GradTTSUNet", "losses/objective.py", 1),
    ("from gradtts_robust.config import ObjectiveConfig", "losses/objective.py", 1),
    ("from ..config import ObjectiveConfig", "losses/objective.py", 1),
    ("from .. import files", "losses/objective.py", 1),
    ("from .penalties import l2\nfrom gradtts_robust.losses import l2", "losses/objective.py", 0),
    ("def f():\n    import gradtts_robust.data.manifest", "speech/text.py", 1),
    ("from gradtts_robust.files import atomic_write", "speech/audio.py", 0),
    ("from ..data import manifest", "model/gradtts.py", 1),
    ("from ..losses import Objective", "model/gradtts.py", 0),
    ("from gradtts_robust.model import unet", "data/dataset.py", 1),
    ("import importlib\nimportlib.import_module('gradtts_robust.study.report')", "training/loop.py", 1),
    ("from gradtts_robust import cli", "study/demo.py", 1),
    ("from gradtts_robust.cli import main", "training/loop.py", 1),
    ("from gradtts_robust import __version__", "training/loop.py", 0),
    ("from gradtts_robust import load", "study/demo.py", 1),
    ("from gradtts_robust.cli import main", "__main__.py", 0),
    ("from .study import report", "config.py", 1),
    ("import torch", "kitchen/sink.py", 1),
])
def test_a_wrong_way_is_noticed(source, path, wrong):
    assert len(wrong_ways(source, tuple(path.split("/")))) == wrong
