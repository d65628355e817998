"""What libtpu is told on each host of one slice and of several. There is no TPU here: the variables are all that is checked."""

import os

import pytest
from tests.unit import operator_builders as b

from dpojob_api.trainer_config import trainer_config
from dpojob_trainer import host
from dpojob_trainer.channel import Address
from dpojob_trainer.host import HostTask

DRIVER = Address("10.0.0.9", 1, b"key")
GATHER_FIRST = "--xla_enable_async_all_gather=true --xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")


@pytest.fixture(autouse=True)
def pod(monkeypatch):
    """A process without a slice's variables; what a test sets is gone afterwards."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "MEGASCALE_"))}
    monkeypatch.setattr(os, "environ", own)


def prepare(rank, addresses=ADDRESSES, **accelerator):
    slices = accelerator.get("slices", 1)
    spec = {"accelerator": accelerator, "mesh": {"dp": slices}, "training": {"globalBatchSize": 16}}
    config = trainer_config(b.make_job(spec), 1)
    host.prepare_environment(config, HostTask(config.to_json(), rank, addresses, 1234, DRIVER))
    return {k: v for k, v in os.environ.items() if k.startswith(("TPU_", "MEGASCALE_"))}


@pytest.mark.parametrize(
    ("rank", "number", "worker", "own"),
    [
        (0, 0, 0, "10.0.0.1,10.0.0.2"),
        (1, 0, 1, "10.0.0.1,10.0.0.2"),
        (2, 1, 0, "10.0.0.3,10.0.0.4"),
        (3, 1, 1, "10.0.0.3,10.0.0.4"),
    ],
)
def test_each_slice_has_its_own_hosts_and_all_meet_at_the_first(rank, number, worker, own):
    assert prepare(rank, slices=2) == {
        "TPU_WORKER_HOSTNAMES": own,
        "TPU_WORKER_ID": str(worker),
        "MEGASCALE_COORDINATOR_ADDRESS": "10.0.0.1",
        "MEGASCALE_PORT": "8081",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": str(number),
    }


def test_slices_of_one_host_each():
    told = prepare(1, ADDRESSES[:2], type="v4-8", slices=2)
    assert (told["TPU_WORKER_HOSTNAMES"], told["TPU_WORKER_ID"]) == ("10.0.0.2", "0")
    assert (told["MEGASCALE_COORDINATOR_ADDRESS"], told["MEGASCALE_SLICE_ID"]) == ("10.0.0.1", "1")


def test_one_slice_has_no_network_between_slices():
    assert prepare(1, ADDRESSES[:2]) == {"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "TPU_WORKER_ID": "1"}


def test_webhooks_coordinator_is_replaced_and_its_host_names_are_kept():
    """GKE's webhook names the first host of the pod's own worker group."""
    os.environ |= {"MEGASCALE_COORDINATOR_ADDRESS": "tpu-1-0-0.j-headless", "TPU_WORKER_HOSTNAMES": "a,b"}
    told = prepare(2, slices=2)
    assert told["MEGASCALE_COORDINATOR_ADDRESS"] == "10.0.0.1"
    assert told["TPU_WORKER_HOSTNAMES"] == "a,b"


def test_cpu_has_none_of_it():
    os.environ["MEGASCALE_SLICE_ID"] = "1"
    config = trainer_config(
        b.make_job({"runtime": {"platform": "cpu"}, "accelerator": {"slices": 2}, "mesh": {"dp": 2}}), 1
    )
    host.prepare_environment(config, HostTask(config.to_json(), 2, ADDRESSES, 1234, DRIVER))
    assert not [name for name in os.environ if name.startswith(("TPU_", "MEGASCALE_"))]


def test_flags_of_the_spec_reach_libtpu_before_those_of_the_environment():
    """libtpu takes the last of equal flags, so `runtime.env` wins; a process that is started with them has them once."""
    os.environ["LIBTPU_INIT_ARGS"] = "--xla_tpu_scoped_vmem_limit_kib=1"
    flags = {"xla_tpu_scoped_vmem_limit_kib": "65536", "xla_tpu_enable_async_collective_fusion": "true"}
    config = trainer_config(b.make_job({"runtime": {"xlaFlags": flags}}), 1)
    wanted = (
        f"{GATHER_FIRST} --xla_tpu_enable_async_collective_fusion=true --xla_tpu_scoped_vmem_limit_kib=65536 "
        "--xla_tpu_scoped_vmem_limit_kib=1"
    )
    for _ in range(2):
        os.environ |= host.environment(config)
        assert os.environ["LIBTPU_INIT_ARGS"] == wanted


@pytest.mark.parametrize(
    ("runtime", "wanted"),
    [
        ({}, GATHER_FIRST),
        (
            {"xlaFlags": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "0"}},
            GATHER_FIRST.replace("1000000", "0"),
        ),
        ({"platform": "cpu"}, None),
    ],
)
def test_weights_are_gathered_first_unless_the_spec_says_otherwise(runtime, wanted):
    os.environ.pop("LIBTPU_INIT_ARGS", None)
    assert (
        host.environment(trainer_config(b.make_job({"runtime": runtime}), 1)).get("LIBTPU_INIT_ARGS")
        == wanted
    )


def test_a_plan_of_a_job_that_runs_on_cpu_has_the_options_of_its_slice():
    """`dpojob plan` changes the platform of the resolved configuration alone."""
    on_cpu, on_slice = (trainer_config(b.make_job({"runtime": {"platform": p}}), 1) for p in ("cpu", "tpu"))
    assert on_cpu.xla_flags == on_slice.xla_flags != {}
