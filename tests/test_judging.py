"""What a run of a study leaves behind, read after processes were killed while they wrote it."""
import numpy as np
import pytest

from gradtts_robust.study import twins
from gradtts_robust.study.judging import JUDGED, VOICES, judged_files, read_arrays, write_arrays
from gradtts_robust.study.table import Note, load_runs


@pytest.fixture
def cut_off(tmp_path):
    """A finished run whose process had been killed once while it wrote a checkpoint's embeddings."""
    out = tmp_path / "runs" / "k"
    for step in (0, 2):
        write_arrays(out / JUDGED / f"{step:06d}.npz", {"seconds": np.array([float(step)])})
    (out / JUDGED / ".tmp-0a1b2c3d.npz").write_bytes(b"PK\x03\x04 half of it")
    write_arrays(out / VOICES, {})
    (out / "done.json").write_text("{}", encoding="utf-8")
    return out


def test_a_half_written_file_is_no_checkpoint(cut_off, tmp_path):
    note = Note(tmp_path, "", "", [], "", [{"key": "k", "method": "plain"}])
    loaded, = load_runs(note)
    assert list(loaded.judged) == [0, 2] and loaded.selected == 2


def test_twins_get_whole_checkpoints_alone(cut_off, tmp_path):
    shared, other = tmp_path / "learnt" / "abc", tmp_path / "runs" / "twin"
    twins.share(shared, cut_off)
    (shared / ".tmp-4e5f.npz").write_bytes(b"")
    twins.take(shared, other)
    assert [path.name for path in judged_files(other / JUDGED)] == ["000000.npz", "000002.npz"]
    assert read_arrays(other / JUDGED / "000002.npz")["seconds"] == 2
