from contextlib import ExitStack

import pytest

from bundle.errors import InputError
from bundle.io import atomic_path
from bundle.io.atomic import left_partials


def test_moves_into_place_and_makes_the_folder(tmp_path):
    target = tmp_path / "new" / "a.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent  # the same file system, so that the move is atomic
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
        assert not target.exists()
    assert [p.name for p in target.parent.iterdir()] == ["a.nii.gz"]
    assert target.read_text() == "new"


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "old"


def test_unwritable_place_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.txt").mkdir()
    with pytest.raises(InputError, match=r"file.*a\.txt: cannot be written .*output_dir"), atomic_path(tmp_path / "file" / "a.txt"):
        pass
    with pytest.raises(InputError, match=r"taken\.txt: cannot be written"), atomic_path(tmp_path / "taken.txt") as temporary:
        temporary.write_text("")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.txt"]


def test_what_is_on_its_way_is_found_by_the_name_of_its_target(tmp_path):
    """Not that of another target whose name ends or begins alike, or that fits this one as a pattern."""
    names = ["rock[1]_sr.tif", "a-rock[1]_sr.tif", "rock[1]_sr.tiff", "rock1_sr.tif", "0123456789ab-rock[1]_sr.tif"]
    with ExitStack() as stack:
        made = [stack.enter_context(atomic_path(tmp_path / name)) for name in names]
        for path in [*made, tmp_path / ".partial-rock[1]_sr.tif"]:
            path.write_text("half")
        assert [left_partials(tmp_path / name) for name in names] == [[path] for path in made]
        assert left_partials(tmp_path / "other.tif") == []
    assert [left_partials(tmp_path / name) for name in names] == [[]] * len(names)
