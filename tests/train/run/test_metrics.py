"""What a run writes down of itself: metrics.jsonl, TensorBoard, the plot."""

from train.run.metrics import MetricsWriter, plot_losses, read_metrics


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


def test_plot(tmp_path):
    with MetricsWriter(tmp_path, 0) as metrics:
        metrics.write(1, {"loss": 2.0})
        metrics.write(2, {"loss": 1.0})
        metrics.write(2, {"loss/code": 1.5})
    path = plot_losses(tmp_path, {"bigram, code": 1.2})
    assert path.read_bytes().startswith(b"\x89PNG")
