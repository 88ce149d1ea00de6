"""Token ids of shards (preparation/encode.py)."""

from train.data.tokenizer import Tokenizer
from train.preparation import encode, leaks, shards
from train.preparation.formats import Document
from train.preparation.splits import Borders


def test_a_step_that_is_repeated_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(leaks, "WINDOW", 3)
    monkeypatch.setattr(leaks, "_CHUNK_TOKENS", 10)
    monkeypatch.setattr(shards, "SHARD_BYTES", 25)
    tokenizer = tmp_path / "tokenizer.json"
    Tokenizer.train([], 257).save(tokenizer)
    borders = Borders(dict.fromkeys(("text", "code", "both"), (1 << 18, 1 << 19)))
    documents = [Document("ab" * i, "text", str(i), str(i), 0) for i in range(1, 12)]
    for name in ("once", "twice"):
        folder = tmp_path / name
        shards.write(folder, 0, iter(documents))
        task = encode.Encode(folder, borders, 0, tokenizer)
        for rank in (0, 1, 1, 0) if name == "twice" else (0, 1):
            task(None, rank, 2)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.n*"))
    assert len(files) > 10
    for path in files:
        assert (tmp_path / "once" / path).read_bytes() == (folder / path).read_bytes()
