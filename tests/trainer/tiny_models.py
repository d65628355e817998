"""Tiny random models in Hugging Face layout, written without torch, for tests of the trainer and of the whole path."""

import json
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from dpojob_api.trainer_config import TrainerConfig

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 512
CORPUS = (
    "system user assistant\nYou are a helpful assistant.\nWhat is the capital of France?\nParis is the capital.\n"
    "Explain how a mesh of devices divides the work.\nEach device holds a part of every weight matrix.\n"
    "Give three reasons why the answer should be short. One: time. Two: clarity. Three: respect for the reader.\n"
    "good answer, bad answer, chosen, rejected, prompt, completion, yes and no, true or false, 0 1 2 3 4 5 6 7 8 9\n"
)

QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "use_sliding_window": False,
    "max_window_layers": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
}
QWEN2: dict[str, Any] = QWEN3 | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "head_dim": 8}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": None,
}
GEMMA: dict[str, Any] = {
    "architectures": ["GemmaForCausalLM"],
    "model_type": "gemma",
    "hidden_act": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
SMOLLM3: dict[str, Any] = {
    "architectures": ["SmolLM3ForCausalLM"],
    "model_type": "smollm3",
    "rms_norm_eps": 1e-6,
    "rope_theta": 2000000.0,
    "no_rope_layers": [1, 0],
    "use_sliding_window": False,
}
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attention_dropout": 0.0,
}

FSDP = {"dp": 1, "fsdp": 8, "ep": 1, "tp": 1, "sp": 1}
MIXED = {"dp": 1, "fsdp": 2, "ep": 1, "tp": 2, "sp": 2}


def configuration(
    mesh: dict[str, int], params: str = "float32", compute: str = "float32", **extra: Any
) -> TrainerConfig:
    """A trainer configuration for `mesh`, on one pretended host."""
    devices = prod(mesh.values())
    plan = {"acceleratorType": "v4-16", "topology": "2x2x2", "chips": devices, "hosts": 1}
    return TrainerConfig.model_validate(
        {
            "job": {"name": "tiny", "namespace": "default", "uid": "0", "attempt": 1},
            "model": {"uri": "pvc://inputs/tiny"},
            "dataset": {"uri": "pvc://inputs/data.json"},
            "dpo": {},
            "training": {},
            "precision": {"params": params, "compute": compute},
            "plan": plan | {"chipsPerHost": devices, "mesh": mesh},
            "generation": "v4",
            "attention": {"maxPositions": 128},
            "gradientCheckpointing": "none",
            "output": {"uri": "pvc://outputs/tiny"},
            "tracking": {},
            "launcher": "slice",
            "platform": "cpu",
        }
        | extra
    )


def tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer with `VOCABULARY` entries or fewer, trained on a few lines."""
    model = Tokenizer(BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator([CORPUS], trainer)
    return model


def write_tokenizer(directory: Path, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """Write tokenizer.json and tokenizer_config.json; no template when `chat_template` is None."""
    tokenizer().save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": SHAPE["max_position_embeddings"],
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    _write_json(directory / "tokenizer_config.json", settings)


def parameter_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Hugging Face names and shapes of the parameters of a dense decoder with `config`."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (query, hidden),
            f"{layer}.self_attn.k_proj.weight": (key, hidden),
            f"{layer}.self_attn.v_proj.weight": (key, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, query),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
        if config["model_type"] == "qwen3":
            shapes |= {f"{layer}.self_attn.{name}_norm.weight": (head,) for name in ("q", "k")}
        if config["model_type"] == "qwen2":
            shapes |= {f"{layer}.self_attn.q_proj.bias": (query,)}
            shapes |= {f"{layer}.self_attn.{name}_proj.bias": (key,) for name in ("k", "v")}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_parameters(config: dict[str, Any], dtype: str, seed: int) -> dict[str, np.ndarray]:
    """Random values by name; norms are around one. `dtype` is float32, bfloat16 or float16."""
    generator = np.random.default_rng(seed)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return {
        name: (generator.normal(0.0, 0.05, shape) + float(name.endswith("norm.weight"))).astype(kind)
        for name, shape in parameter_shapes(config).items()
    }


def write_model(
    directory: Path,
    family: dict[str, Any],
    *,
    dtype: str = "float32",
    tied: bool = True,
    shards: int = 1,
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Write a whole model directory and return it; `overrides` replace entries of config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    config = SHAPE | family | {"tie_word_embeddings": tied, "torch_dtype": dtype} | overrides
    _write_json(directory / "config.json", config)
    _write_json(
        directory / "generation_config.json",
        {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"], "do_sample": False},
    )
    write_tokenizer(directory)
    write_parameters(directory, random_parameters(config, dtype, seed), shards)
    return directory


def write_parameters(directory: Path, parameters: dict[str, np.ndarray], shards: int = 1) -> None:
    """Write safetensors: one file, or `shards` files with an index."""
    if shards == 1:
        save_file(parameters, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    names = sorted(parameters)
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        save_file({name: parameters[name] for name in part}, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(value.nbytes for value in parameters.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(directory / "model.safetensors.index.json", index)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
