"""What a comparison is called."""

import pytest

from train.evaluate import _new_name
from train.system.errors import UserError


def compare(folder):
    """A name, after its files have been written."""
    with _new_name(folder, "comparison-test") as name:
        (folder / f"{name}.json").write_text("{}")
        (folder / f"{name}.png").touch()
    return name


def test_a_comparison_never_replaces_another(tmp_path):
    assert compare(tmp_path / "new") == "comparison-test"
    with _new_name(tmp_path / "new", "comparison-test") as second:
        assert compare(tmp_path / "new") == "comparison-test-3"  # at the same time
    assert second == "comparison-test-2"
    assert compare(tmp_path / "new") == "comparison-test-4"


@pytest.mark.parametrize("end", [".png", "-curves.png"])
def test_a_picture_or_a_link_of_that_name_is_somebodys_too(tmp_path, end):
    (tmp_path / f"comparison-test{end}").symlink_to("gone")
    assert compare(tmp_path) == "comparison-test-2"
    assert (tmp_path / f"comparison-test{end}").is_symlink()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "x.png"), KeyboardInterrupt]
)
def test_a_comparison_that_cannot_be_written_leaves_nothing(tmp_path, error):
    compare(tmp_path)
    before = set(tmp_path.iterdir())
    wanted = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted), _new_name(tmp_path, "comparison-test") as name:
        (tmp_path / f"{name}-curves.png").touch()
        raise error
    assert set(tmp_path.iterdir()) == before
