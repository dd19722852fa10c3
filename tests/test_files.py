"""Files that are whole or not there, also where the disk is full."""
import errno
import shutil
from types import SimpleNamespace

import pytest

from gradtts_robust.files import atomic_write, check_file, check_folder


def test_a_full_disk_is_told_as_such_whatever_the_library_says(tmp_path, monkeypatch):
    """torch.save ends with a RuntimeError, libsndfile with one of its own; both leave the disk full until the temporary file is gone."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OSError, match="No space left") as told, atomic_write(tmp_path / "state.pt") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("unexpected pos 6026944 vs 6026832")
    assert told.value.errno == errno.ENOSPC and told.value.filename == str(tmp_path / "state.pt")
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_kind_stays_itself(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), atomic_write(tmp_path / "x"):
        raise RuntimeError("mine")


def test_the_system_s_error_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(OSError) as told, atomic_write(tmp_path / "x.npy"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert told.value.filename == str(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError) as told, atomic_write(tmp_path / "x.npy"):
        (tmp_path / "other").read_bytes()
    assert told.value.filename == str(tmp_path / "other")


def test_what_cannot_be_written_is_refused_early(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for bad in ("", tmp_path, tmp_path / "file" / "below.csv"):
        with pytest.raises(ValueError, match=r"give the name of a file|choose another"):
            check_file(bad)
    check_file(tmp_path / "new" / "x.csv")
    with pytest.raises(ValueError, match="empty"):
        check_folder("")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
