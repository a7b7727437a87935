from melgpu.training.round import training_detail


def test_the_progress_detail_has_metrics_and_stage_times():
    detail = training_detail(1.25, 0.5, 0.625, {"audio": 0.001, "network": 6.0, "pictures": 2.0})
    assert detail.splitlines() == [
        "loss 1.250, accuracy 0.500 on training windows, 0.625 on validation at best",
        "time: network 75%, pictures 25%",
    ]
    assert "validation" not in training_detail(1.25, 0.5, -1.0, {})
