"""What the export of a pipeline may replace; test_pipeline.py exports real models."""

import json

import pytest

from bridge import describe_files
from train.pipeline.export import check_export
from train.system.errors import UserError


def test_an_export_is_replaced_and_nothing_else(tmp_path):
    check_export(str(tmp_path))
    folder = tmp_path / "export"
    folder.mkdir()
    check_export(str(tmp_path))
    (folder / "base_model.safetensors").write_bytes(b"weights")
    message = r"no pipeline has exported, such as base_model.safetensors, and is not replaced: move"
    with pytest.raises(UserError, match=message):
        check_export(str(tmp_path))
    (folder / "manifest.json").write_text(json.dumps(describe_files(folder)))
    check_export(str(tmp_path))
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"such as mine/thesis\.tex"):
        check_export(str(tmp_path))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"mine.txt": 1}', '{"mine.txt": {"bytes": 3}}', "[" * 5000]
)
def test_another_programs_manifest_lists_nothing(tmp_path, content):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "manifest.json").write_text(content)
    (folder / "mine.txt").write_text("dear")
    with pytest.raises(UserError, match=r"such as mine.txt"):
        check_export(str(tmp_path))


def test_what_is_no_folder_is_kept(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "export").symlink_to("theirs")
    with pytest.raises(UserError, match="export is a link"):
        check_export(str(tmp_path))
    (tmp_path / "export").unlink()
    (tmp_path / "export").touch()
    with pytest.raises(UserError, match="export is a file, not a folder"):
        check_export(str(tmp_path))


@pytest.mark.parametrize("name", ["export.partial", ".export.mmrec-old"])
def test_folders_that_an_export_is_made_in_are_not_replaced_where_they_are_somebodys(
    tmp_path, name
):
    (tmp_path / name).mkdir()
    for own in ("base_model.safetensors", "tokenizer.json", "manifest.json", ".a.1234abcd.tmp"):
        (tmp_path / name / own).touch()
    check_export(str(tmp_path))
    (tmp_path / name / "mine").touch()
    with pytest.raises(UserError, match="such as mine, and is not replaced"):
        check_export(str(tmp_path))
