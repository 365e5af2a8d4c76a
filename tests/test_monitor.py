"""The course of a training, in the figures that will judge its result."""

import logging

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from torch.nn import functional as F

from bundle.losses.feedback import StatisticsFeedback
from bundle.monitor import FeedbackLog


def onehot(*labels: np.ndarray) -> torch.Tensor:
    return F.one_hot(torch.from_numpy(np.stack(labels)).long(), 2).movedim(-1, 1).float()


def run(feedback: StatisticsFeedback | None) -> Engine:
    """An engine that runs for an epoch."""
    engine = Engine(lambda *_: None)
    engine.feedback = feedback
    FeedbackLog().attach(engine)
    engine.run([0], max_epochs=1)
    return engine


def test_error_of_known_slices(caplog):
    """Shares of 1/2, 1/2 and a contact of 1/2 (columns of a pixel) against the images' 7/8, 1/8 and 1/12, the mean of two; and all as wanted."""
    stripes = np.broadcast_to(np.arange(8) % 2, (8, 8)).astype(np.uint8)
    quarter = np.zeros((4, 4), np.uint8)
    quarter[0] = 1  # 4 of 24 faces
    feedback = StatisticsFeedback({"hr_xy": [quarter, 0 * quarter], "hr_xz": [stripes], "hr_yz": [stripes]}, 2, [1.0])
    for group in ("hr_xy", "hr_xz"):  # the third has no slices yet
        feedback(group, 0.2 * onehot(stripes) + 0.4, torch.ones(1, 1))
    with caplog.at_level(logging.INFO):
        metrics = run(feedback).state.metrics
    expected = ((7 / 8 - 1 / 2) / (7 / 8) + (1 / 2 - 1 / 8) / (1 / 8) + (1 / 2 - 1 / 12) / (1 / 12)) / 3
    assert metrics == {"statistics_error_hr_xy": pytest.approx(expected, rel=1e-6), "statistics_error_hr_xz": pytest.approx(0, abs=1e-6)}
    assert "slices of hr_xy" in caplog.text and "0.5000 (0.0833)" in caplog.text


def test_statistics_that_the_images_lack_are_left_out():
    """All there is in the image is phase 0: half of it is missing."""
    feedback = StatisticsFeedback({"hr": [np.zeros((4, 4), np.uint8)]}, 2, [1.0])
    feedback("hr", onehot(np.zeros((6, 6)), np.ones((6, 6))), torch.ones(2, 1))
    assert run(feedback).state.metrics == {"statistics_error_hr": pytest.approx(0.5)}


def test_nothing_happens_without_feedback():
    assert run(None).state.metrics == {}
    assert run(StatisticsFeedback({"hr": []}, 2, [1.0])).state.metrics == {}
