"""A study on Ray: two workers on this machine stand for a cluster."""
import builtins
import sys

import pytest
from study_grid import tiny_corpus, tiny_study

from gradtts_robust.study.grid import run_study
from gradtts_robust.study.table import read_table


def test_two_local_workers_give_the_table_of_one_process(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed; it comes with the extra cluster")
    manifest = tiny_corpus(tmp_path)
    config = tiny_study(manifest, tmp_path / "ray", backend="ray", jobs=2)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": ":".join(sys.path)}})
    try:
        assert run_study(config).failed == []
    finally:
        ray.shutdown()
    run_study(tiny_study(manifest, tmp_path / "alone"))
    assert read_table(tmp_path / "ray").drop(columns="sample").equals(read_table(tmp_path / "alone").drop(columns="sample"))


def test_without_ray_the_remedy_is_told(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("ray"):
            raise ImportError(name)
        return real(name, *rest, **more)

    manifest = tiny_corpus(tmp_path)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install gradtts-robust\[cluster\]"):
        run_study(tiny_study(manifest, tmp_path / "study", backend="ray"))
