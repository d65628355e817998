"""The tutorial's slice, v4-64: eight host pods of four virtual CPU devices each, with a tiny model."""

import pytest
from hack.demo.follow import is_true

from tests.e2e.cluster import Namespace
from tests.e2e.inputs import job

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("tutorial_slice"),
]


def test_eight_hosts_train_as_one_mesh(namespace: Namespace) -> None:
    training = {"maxSteps": 4, "globalBatchSize": 32, "learningRate": 1e-3, "checkpointSteps": 4}
    namespace.apply(job("tutorial", training=training, accelerator={"type": "v4-64"}))
    status = namespace.wait("tutorial", "Complete", lambda s: is_true(s, "Complete"), 1500)
    assert (status["plan"]["hosts"], status["plan"]["chips"]) == (8, 32)
    assert status["plan"]["mesh"] == {"dp": 1, "fsdp": 32, "ep": 1, "tp": 1, "sp": 1}
    assert status["finalMetrics"]["step"] == 4
