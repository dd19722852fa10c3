"""What runs of a study leave behind and share: whole files alone, and nothing of another judge under the same name."""
import numpy as np
import pytest
import torch

from gradtts_robust.config import AdaptConfig, EvaluationConfig
from gradtts_robust.speech.audio import SAMPLE_RATE, save_wav
from gradtts_robust.speech.ecapa_small import load_judge, save_judge, shipped_judge
from gradtts_robust.study import judging, twins
from gradtts_robust.study.judging import JUDGED, VOICES, Judge, embed_clips, judged_files, load_ears, read_arrays, write_arrays
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


@pytest.fixture
def listens(tmp_path):
    """Loads an encoder from a file whose bias is moved, and says what its embeddings depend on and what it makes of one clip."""
    clip, config = tmp_path / "clip.wav", AdaptConfig(evaluation=EvaluationConfig(sentences="1", vocoder="griffin-lim"))
    save_wav(clip, 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE))

    mine, files = tmp_path / "mine.safetensors", {}

    def load(moved: float):
        if moved not in files:
            network = load_judge(shipped_judge())
            with torch.no_grad():
                network.network.fc.conv.bias[0] += moved
            files[moved] = save_judge(mine, network, dtype=torch.float32).read_bytes()
        # the same bytes again: safetensors writes a file's facts in any order
        mine.write_bytes(files[moved])
        ears = load_ears(config, ["ecapa"], {"ecapa": str(mine)}, "cpu", tmp_path / "cache")
        encoder = ears.encoders["mine"]
        return Judge(config, ears, base="b").facts(), embed_clips([str(clip)], encoder, ears.cache, version=ears.version)
    return load


def test_an_encoder_trained_anew_under_its_old_name_is_asked_anew(listens, monkeypatch):
    facts, heard = listens(0.0)
    again, moved = listens(5.0)
    assert facts != again and not np.allclose(heard, moved, atol=0.01)
    before, same = listens(0.0)
    assert before == facts and np.array_equal(same, heard)
    monkeypatch.setattr(judging, "RESULTS_VERSION", "another")
    assert listens(0.0)[0] != facts
