"""What numba compiles rounds the same in the process that compiles it and in those that find it on disk."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

GRADIENTS = """
import hashlib
from test_norm_{name} import gradients, inputs
for channels in (8, 24, 64):
    for value in gradients(inputs(channels=channels)):
        print(hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest())
"""


def _gradients(name: str, cache: Path) -> str:
    tests = Path(__file__).parent
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tests)}
    return subprocess.run([sys.executable, "-c", GRADIENTS.format(name=name)], env=env, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", ["silu", "mish"])
def test_a_process_that_compiles_computes_what_later_ones_do(name, tmp_path):
    compiled = _gradients(name, tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(f"norm_{name}_kernel.*.nbc")}
    assert len(kept) > 1
    assert _gradients(name, tmp_path) == compiled
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob(f"norm_{name}_kernel.*.nbc")} == kept
