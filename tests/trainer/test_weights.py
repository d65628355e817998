"""Weights in and out on real EasyDeL modules: bit-exact, on several meshes and processes, without torch."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from tests.trainer import tiny_models as tiny
from tests.trainer.tiny_models import FSDP, MIXED, configuration

from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import DType
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.training import utilisation
from dpojob_trainer.weights import export_model, gather, load_model

pytestmark = pytest.mark.jax
REPOSITORY = Path(__file__).parents[2]
FAMILIES = {
    "qwen3": tiny.QWEN3,
    "llama": tiny.LLAMA,
    "qwen2": tiny.QWEN2,
    "mistral": tiny.MISTRAL,
    "gemma": tiny.GEMMA,
    "smollm3": tiny.SMOLLM3,
}
TOLERANCE = 5e-6

WORKER = """
import os
import sys
from pathlib import Path
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import easydel_compat
easydel_compat.prepare()
NAMES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NCCL")
before = {name: value for name, value in os.environ.items() if name.startswith(NAMES)}
import jax
config, source, target, coordinator, index, torch_there = sys.argv[1:]
if coordinator:
    jax.distributed.initialize(coordinator, 2, int(index), initialization_timeout=120)
from dpojob_trainer.weights import export_model, gather, load_model
gather.CHUNK_BYTES = 10_000
config = TrainerConfig.model_validate_json(config)
model = load_model(Path(source), config)
export_model(model, config, Path(source), Path(target))
after = {name: value for name, value in os.environ.items() if name.startswith(NAMES)}
assert after == before, f"EasyDeL has changed {before} to {after}"
assert ("torch" in sys.modules) <= (torch_there == "yes")
# One write: gloo prints to the same pipe from another thread.
os.write(1, f"\\ndevices {jax.device_count()} processes {jax.process_count()}\\n".encode())
"""


def stored(directory: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor in `directory`."""
    found = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118
                value = opened.get_tensor(name)
                found[name] = (str(value.dtype), value.shape, value.tobytes())
    return found


@pytest.mark.parametrize("mesh", [FSDP, MIXED], ids=["fsdp8", "fsdp2-tp2-sp2"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_round_trip_is_bit_exact(
    family: str, dtype: str, tied: bool, shards: int, mesh: dict[str, int], tmp_path: Path
) -> None:
    base = tiny.write_model(tmp_path / "base", FAMILIES[family], dtype=dtype, tied=tied, shards=shards)
    config = configuration(mesh, params=dtype)
    export_model(load_model(base, config), config, base, tmp_path / "out", max_shard_bytes=200_000 * shards)
    assert stored(tmp_path / "out") == stored(base)


def run_workers(
    config: TrainerConfig, base: Path, out: Path, processes: int, devices: int, **environment: str
) -> list[str]:
    """Load and export in fresh processes with `devices` virtual devices each; return what they print."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}" if processes > 1 else ""
    flags = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": f"{REPOSITORY}/operator/src:{REPOSITORY}/trainer_image/src",
    }
    options = ["-S"] if environment else []
    torch_there = "no" if environment else "yes"
    running = [
        subprocess.Popen(
            [
                sys.executable,
                *options,
                "-c",
                WORKER,
                config.to_json(),
                base,
                out,
                address,
                str(n),
                torch_there,
            ],
            env=os.environ | flags | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(processes)
    ]
    finished = [process.communicate(timeout=300) for process in running]
    for process, (_, errors) in zip(running, finished, strict=True):
        assert process.returncode == 0, errors[-4000:]
    return [line for output, _ in finished for line in output.splitlines() if line.startswith("devices")]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_one_device_and_no_torch_on_the_machine(family: str, tmp_path: Path) -> None:
    """The process sees every installed package except torch, as in the trainer image."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(("torch", "functorch")):
            (packages / entry.name).symlink_to(entry)
    base = tiny.write_model(tmp_path / "base", FAMILIES[family], dtype="bfloat16")
    path = f"{packages}:{REPOSITORY}/operator/src:{REPOSITORY}/trainer_image/src"
    config = configuration(dict.fromkeys(FSDP, 1), params="bfloat16")
    printed = run_workers(config, base, tmp_path / "out", 1, 1, PYTHONPATH=path)
    assert printed == ["devices 1 processes 1"]
    assert stored(tmp_path / "out") == stored(base)


def test_two_processes_write_one_directory(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.QWEN3, tied=False, shards=2)
    printed = run_workers(configuration(MIXED), base, tmp_path / "out", 2, 4)
    assert printed == ["devices 8 processes 2"] * 2
    assert stored(tmp_path / "out") == stored(base)


def logits(model: Any, ids: np.ndarray) -> np.ndarray:
    """Logits `[batch, seq, vocabulary]` of an EasyDeL module."""
    import jax.numpy as jnp

    with model.mesh:
        output = model(input_ids=jnp.asarray(ids), attention_mask=jnp.ones_like(ids))
    return np.asarray(output.logits)


def reference_logits(directory: Path, ids: np.ndarray) -> np.ndarray:
    """Logits of transformers and torch for the same directory."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return np.asarray(model(torch.tensor(ids)).logits)


IDS = np.random.default_rng(1).integers(3, tiny.VOCABULARY, (8, 96))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_equal_those_of_transformers(family: str, tied: bool, tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", FAMILIES[family], tied=tied)
    config = configuration(MIXED)
    model = load_model(base, config)
    found = logits(model, IDS)
    export_model(model, config, base, tmp_path / "out")
    np.testing.assert_allclose(found, reference_logits(base, IDS), atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(reference_logits(tmp_path / "out", IDS), reference_logits(base, IDS))


ROPE: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0},
}


@pytest.mark.parametrize("form", ["transformers-4", "transformers-5"])
@pytest.mark.parametrize("kind", sorted(ROPE))
def test_rotary_settings(kind: str, form: str, tmp_path: Path) -> None:
    """Sequences are longer than the original length, where EasyDeL's own llama3 table ends."""
    rope = {"rope_type": kind} | ROPE[kind]
    if kind in ("llama3", "yarn"):
        rope |= {"original_max_position_embeddings": 32}
    base = tiny.write_model(tmp_path / "base", tiny.LLAMA)
    settings = json.loads((base / "config.json").read_text())
    del settings["rope_theta"]
    new = {"rope_parameters": rope | {"rope_theta": 100000.0}}
    settings |= new if form == "transformers-5" else {"rope_scaling": rope, "rope_theta": 100000.0}
    (base / "config.json").write_text(json.dumps(settings))
    found = logits(load_model(base, configuration(FSDP)), IDS)
    np.testing.assert_allclose(found, reference_logits(base, IDS), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_sliding_window(family: str, tmp_path: Path) -> None:
    window = {"use_sliding_window": True, "max_window_layers": 1}
    wide = tiny.write_model(tmp_path / "wide", FAMILIES[family], sliding_window=128, **window)
    found = logits(load_model(wide, configuration(FSDP)), IDS)
    np.testing.assert_allclose(found, reference_logits(wide, IDS), atol=TOLERANCE, rtol=0)
    narrow = tiny.write_model(tmp_path / "narrow", FAMILIES[family], sliding_window=127, **window)
    with pytest.raises(TrainerError) as caught:
        load_model(narrow, configuration(FSDP))
    assert caught.value.reason is TrainerReason.MODEL_UNSUPPORTED
    assert "window of 127 tokens is shorter than the 128 positions" in caught.value.message


def test_reference_model_in_another_precision(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.LLAMA)
    model = load_model(base, configuration(FSDP), matrix_dtype=DType.BFLOAT16)
    kernel = np.asarray(model.model.layers[1].mlp.up_proj.kernel.get_value())
    original = tiny.random_parameters(json.loads((base / "config.json").read_text()), "float32", 0)
    expected = original["model.layers.1.mlp.up_proj.weight"].T.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(kernel, expected)
    norm = np.asarray(model.model.layers[1].input_layernorm.kernel.get_value())
    np.testing.assert_array_equal(norm, original["model.layers.1.input_layernorm.weight"])


def test_float16_weights_become_float32_exactly(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.QWEN3, dtype="float16")
    config = configuration(FSDP)
    export_model(load_model(base, config), config, base, tmp_path / "out")
    for name, (dtype, shape, value) in stored(tmp_path / "out").items():
        assert dtype == "float32"
        half = np.frombuffer(stored(base)[name][2], np.float16).reshape(shape)
        np.testing.assert_array_equal(np.frombuffer(value, np.float32).reshape(shape), half)
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "float32"


def test_parameters_are_distributed_and_settings_arrive(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.QWEN3)
    model = load_model(
        base, configuration(FSDP, compute="bfloat16", gradientCheckpointing="nothing_saveable")
    )
    kernel = model.model.layers[0].mlp.up_proj.kernel.get_value()
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 8}
    assert model.config.attn_mechanism == "vanilla"
    assert str(model.config.attn_dtype) == "bfloat16"
    assert model.model.layers[1].policies.usual == "nothing_saveable"
    table = model.frequencies.value
    assert (table.shape[0], str(table.dtype)) == (128, "float32")


def test_each_number_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpojob_trainer.weights.checkpoint import Checkpoint

    original, sizes = Checkpoint.read, dict[str, int]()

    def recorded(self: Checkpoint, name: str, index: tuple[slice, ...]) -> Any:
        part = original(self, name, index)
        sizes[name] = sizes.get(name, 0) + part.size
        return part

    monkeypatch.setattr(Checkpoint, "read", recorded)
    base = tiny.write_model(tmp_path / "base", tiny.LLAMA)
    load_model(base, configuration(FSDP))
    assert sizes == {name: prod(shape) for name, (_, shape, _) in stored(base).items()}


def test_gradients_reach_every_parameter_of_a_tied_model(tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    base = tiny.write_model(tmp_path / "base", tiny.QWEN3)
    model = load_model(base, configuration(FSDP, gradientCheckpointing="nothing_saveable"))
    graph, params, others = nnx.split(model, nnx.Param, ...)

    def loss(params: Any) -> Any:
        output = nnx.merge(graph, params, others)(input_ids=jnp.asarray(IDS[:, :16]))
        return jnp.square(output.logits).mean()

    with model.mesh:
        gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    assert len(gradients) == len(stored(base))
    assert all(float(jnp.abs(gradient).max()) > 0 for gradient in gradients)


def test_harmless_extra_tensors_are_left_out(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.LLAMA)
    parameters = tiny.random_parameters(json.loads((base / "config.json").read_text()), "float32", 0)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    head = {"lm_head.weight": parameters["model.embed_tokens.weight"].copy()}
    tiny.write_parameters(base, parameters | extra | head)
    config = configuration(FSDP)
    export_model(load_model(base, config), config, base, tmp_path / "out")
    assert set(stored(tmp_path / "out")) == set(parameters)


def test_export_is_a_whole_model_directory(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = tiny.write_model(tmp_path / "base", tiny.QWEN3)
    (base / "modeling_acme.py").write_text("raise SystemExit")
    config, out = configuration(FSDP, params="bfloat16"), tmp_path / "deep/out"
    model = load_model(base, config)
    for limit in (2_000_000_000, 100_000):
        export_model(model, config, base, out, max_shard_bytes=limit)
    same = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")
    assert all((out / name).read_bytes() == (base / name).read_bytes() for name in same)
    settings = json.loads((out / "config.json").read_text())
    assert settings == json.loads((base / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(stored(out))
    assert index["metadata"]["total_size"] == sum(len(value) for _, _, value in stored(out).values())
    assert not (out / "modeling_acme.py").exists()
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]
    assert (
        AutoTokenizer.from_pretrained(out)
        .apply_chat_template([{"role": "user", "content": "yes"}], tokenize=False)
        .startswith("<|im_start|>user")
    )


def test_rows_of_a_large_tensor_are_gathered_in_parts() -> None:
    ranges = gather.row_ranges((151_936, 5120), 4)
    assert (ranges[0][0], ranges[-1][1]) == (0, 151_936)
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    assert all((stop - start) * 5120 * 4 <= gather.CHUNK_BYTES for start, stop in ranges)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", ["qwen3", "gemma"])
def test_every_weight_but_the_look_up_counts_for_utilisation(tmp_path: Path, family: str, tied: bool) -> None:
    base = tiny.write_model(tmp_path / "base", FAMILIES[family], tied=tied)
    tensors = {name: prod(shape) for name, (_, shape, _) in stored(base).items()}
    look_up = 0 if tied else tensors["model.embed_tokens.weight"]
    module = load_model(base, configuration(FSDP))
    assert utilisation.multiplied(utilisation.shapes(module)) == sum(tensors.values()) - look_up
