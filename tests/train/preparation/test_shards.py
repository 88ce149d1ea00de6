"""The shards of an unfinished preparation."""

from train.preparation import shards
from train.preparation.formats import Document


def test_a_task_that_was_killed_writes_its_shards_again(tmp_path):
    documents = [Document(f"text {i} é", "text", f"{i}.txt", f"{i}", 0) for i in range(3)]
    for _ in range(2):
        assert shards.write(tmp_path, 0, iter(documents)) == sum(d.size for d in documents)
        assert list(shards.read(tmp_path, 0)) == documents
