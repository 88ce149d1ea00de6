"""What a run writes down of itself: metrics.jsonl, TensorBoard, the plot."""

import errno
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from train.run.metrics import MetricsWriter, plot_losses, read_metrics


def events(run):
    """The scalars of all event files as TensorBoard shows them, by step and name."""
    shown = {}
    for path in sorted((run / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:  # a length and its checksum, the event and its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.HasField("session_log"):
                shown = {key: value for key, value in shown.items() if key[0] < event.step}
            for value in event.summary.value:
                text = b"".join(value.tensor.string_val).decode()
                shown[event.step, value.tag] = text or value.simple_value
    return shown


def test_tensorboard_has_what_the_metrics_have_whenever_the_process_dies(tmp_path):
    with MetricsWriter(tmp_path, 0) as metrics:
        for step in range(1, 15):
            metrics.write(step, {"loss": 1 / 2**step, "loss/code": float(step)})
            # What is in the files now is what a SIGKILL leaves.
            records = {
                (record["step"], name): value
                for record in read_metrics(tmp_path)
                for name, value in record.items()
                if name != "step"
            }
            assert events(tmp_path) == records and len(records) == 2 * step
    with MetricsWriter(tmp_path, 3) as metrics:
        metrics.write(4, {"loss": 8.0})
        assert events(tmp_path)[4, "loss"] == 8.0
        assert sorted({step for step, _ in events(tmp_path)}) == [1, 2, 3, 4]


def test_tensorboard_shows_texts_as_they_are(tmp_path):
    with MetricsWriter(tmp_path, 0) as metrics:
        metrics.write_texts(7, {"sample/def": "def __f__():\n\n  *x*"})
    ((place, text),) = events(tmp_path).items()
    assert place[0] == 7 and place[1].startswith("sample/def")
    assert text == "    def __f__():\n    \n      *x*"
    assert not read_metrics(tmp_path)


@pytest.mark.parametrize("name", ["gs:", "s3:"])
def test_a_folder_that_is_called_as_a_cloud_is_one_on_this_disk(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    run = Path(name) / "bucket"
    run.mkdir(parents=True)
    with MetricsWriter(run, 0) as metrics:
        metrics.write(1, {"loss": 2.0})
    assert events(run) == {(1, "loss"): 2.0}


def test_metrics_after_the_restored_step_are_dropped(tmp_path):
    with MetricsWriter(tmp_path, 0) as metrics:
        for step in range(1, 5):
            metrics.write(step, {"loss": 1 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a run was killed here
    with MetricsWriter(tmp_path, 2) as metrics:
        metrics.write(3, {"loss": 9.0})
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]
    assert read_metrics(tmp_path)[-1]["loss"] == 9.0
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize(
    "line",
    [b"5", b"[]", b"null", b'{"loss": 1.0}', b'{"step": "3"}', b'{"step": 3, "loss": null}',
     b"\xff", b"[" * 5000, b'{"step": 1.5}', b"\0\0\0"]
)  # fmt: skip
def test_lines_that_are_damaged_are_left_out(tmp_path, line):
    good = b'{"step": 1, "loss": 2.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + line + b"\n")
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    with MetricsWriter(tmp_path, 3):
        assert (tmp_path / "metrics.jsonl").read_bytes() == good


def test_plot(tmp_path):
    with MetricsWriter(tmp_path, 0) as metrics:
        metrics.write(1, {"loss": 2.0})
        metrics.write(2, {"loss": 1.0})
        metrics.write(2, {"loss/code": 1.5})
    path = plot_losses(tmp_path, {"5-gram, code": 1.2})
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_nothing_warns_of_nothing(tmp_path):
    assert plot_losses(tmp_path).read_bytes().startswith(b"\x89PNG")


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_cannot_be_written_ends_no_run_and_has_no_gap(tmp_path, monkeypatch, capsys):
    """A disk that is full for steps 2 and 3, with half of a line written."""
    with MetricsWriter(tmp_path, 0) as metrics:
        metrics.write(1, {"loss": 1.0})
        file = metrics._file
        half = iter([lambda data: file.write(data[:9])])
        monkeypatch.setattr(
            metrics, "_file", SimpleNamespace(write=lambda data: next(half, full)(data))
        )
        monkeypatch.setattr(metrics._events._file, "flush", full)
        monkeypatch.setattr("train.run.metrics.replacing", full)
        for step in (2, 3):
            metrics.write(step, {"loss": 1.0})
            metrics.plot()
        monkeypatch.undo()
        metrics.write(4, {"loss": 1.0})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4]
    warnings = capsys.readouterr().out.splitlines()
    assert warnings == [
        f"warning: {tmp_path / name}: No space left on device; training goes on"
        for name in ("metrics.jsonl", "tensorboard", "loss.png")
    ]
