"""Models and directories that cannot be loaded or written: the reason and the words of each."""

import os
import sys
from pathlib import Path
from typing import Any

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import numpy as np
import pytest
from tests.trainer import tiny_models as tiny
from tests.trainer.tiny_models import FSDP, configuration

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.weights import export_model, load_model
from dpojob_trainer.weights.architecture import VERIFIED

pytestmark = pytest.mark.jax


def reason(directory: Path, mesh: dict[str, int] = FSDP) -> TrainerError:
    """The error that loading `directory` ends with."""
    with pytest.raises(TrainerError) as caught:
        load_model(directory, configuration(mesh))
    return caught.value


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "rotary type dynamic is not supported"),
        ({"rope_type": "yarn", "factor": 2.0}, "lacks original_max_position_embeddings"),
        (
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
            "64 positions and the job needs 128",
        ),
        ({"rope_type": "linear", "factor": 2.0, "attention_factor": 1.5}, "attention_factor"),
    ],
)
def test_rotary_settings_that_easydel_computes_otherwise(
    rope: dict[str, Any], words: str, tmp_path: Path
) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.LLAMA, rope_scaling=rope)
    error = reason(base)
    assert error.reason is TrainerReason.MODEL_UNSUPPORTED
    assert words in error.message


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    settings = tiny.SHAPE | tiny.QWEN3 | {"tie_word_embeddings": True}
    base = tiny.write_model(tmp_path / "base", tiny.QWEN3)
    good = tiny.random_parameters(settings, "float32", 0)
    name = "model.layers.1.mlp.up_proj.weight"
    broken = {
        f"lacks {name}": {key: value for key, value in good.items() if key != name},
        "has no score.weight": good | {"score.weight": np.zeros((2, 64), np.float32)},
        f"{name} has shape [64, 128] instead of [128, 64]": good | {name: good[name].T.copy()},
        f"{name} is stored as I8": good | {name: good[name].astype(np.int8)},
    }
    for words, parameters in broken.items():
        tiny.write_parameters(base, parameters)
        error = reason(base)
        assert error.reason is TrainerReason.MODEL_UNSUPPORTED
        assert words in error.message


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "acme_custom"])
def test_other_architectures_are_refused_with_the_list(model_type: str, tmp_path: Path) -> None:
    code = {"AutoModelForCausalLM": "modeling_acme.AcmeForCausalLM"}
    base = tiny.write_model(tmp_path / "base", tiny.LLAMA | {"model_type": model_type, "auto_map": code})
    error = reason(base)
    assert error.reason is TrainerReason.MODEL_UNSUPPORTED
    assert model_type in error.message
    assert ", ".join(VERIFIED) in error.message


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.LLAMA, quantization_config={"quant_method": "gptq"})
    assert "quantised" in reason(base).message


def test_broken_directories_are_not_found(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.LLAMA)
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    errors = [reason(base)]
    weights.unlink()
    errors.append(reason(base))
    (base / "config.json").write_text("{")
    errors.append(reason(base))
    assert {error.reason for error in errors} == {TrainerReason.MODEL_NOT_FOUND}
    words = ["fetch the model again", "only safetensors", "config.json"]
    assert [word in error.message for word, error in zip(words, errors, strict=True)] == [True] * 3


def test_too_few_devices(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.LLAMA)
    error = reason(base, FSDP | {"fsdp": 16})
    assert error.reason is TrainerReason.SLICE_NOT_READY
    assert "needs 16 devices and JAX sees 8" in error.message


def test_export_that_cannot_be_written(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tiny.QWEN3)
    (tmp_path / "file").write_text("")
    config = configuration(FSDP)
    with pytest.raises(TrainerError) as caught:
        export_model(load_model(base, config), config, base, tmp_path / "file" / "out")
    assert caught.value.reason is TrainerReason.EXPORT_FAILED
    assert "Not a directory" in caught.value.message
