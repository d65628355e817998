"""Pure translation of a Llama-architecture GGUF file into what a Hugging Face model directory holds.

Second stage of the demo's model preparation: convert.py fetches the file and writes what these functions
return; the trainer then reads the directory as it would read any model from the Hub.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Fields = Mapping[str, Any]
Weights = NDArray[np.float32]

TOP_LEVEL_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
CONTROL_TOKEN = int(gguf.TokenType.CONTROL)


def fields(reader: gguf.GGUFReader) -> dict[str, Any]:
    """The file's metadata as plain Python values."""
    return {name: field.contents() for name, field in reader.fields.items()}


def huggingface_name(name: str) -> str:
    """Parameter name in transformers' Llama for a GGUF tensor name; KeyError if Llama has no such tensor."""
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.weight"
    return f"{TOP_LEVEL_NAMES[parts[0]]}.weight"


def half_split_rows(weights: Weights, heads: int) -> Weights:
    """Undo llama.cpp's reordering of query and key rows; shape `[heads * head_dim, hidden]` is kept.

    llama.cpp rotates neighbouring pairs (2i, 2i + 1), transformers rotates (i, i + head_dim / 2), so
    llama.cpp's converter interleaves the two halves of each head (`LlamaModel.permute` in its
    convert_hf_to_gguf.py). Without the inverse the model still loads and writes nonsense.
    """
    pairs = weights.shape[0] // heads // 2
    return weights.reshape(heads, pairs, 2, -1).swapaxes(1, 2).reshape(weights.shape)


def parameters(reader: gguf.GGUFReader, meta: Fields) -> Iterator[tuple[str, Weights]]:
    """Every parameter with its transformers name, dequantised to float32 in `[out, in]` order."""
    heads = {
        "attn_q": meta["llama.attention.head_count"],
        "attn_k": meta["llama.attention.head_count_kv"],
    }
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        role = tensor.name.split(".")[-2]
        if role in heads:
            weights = half_split_rows(weights, heads[role])
        yield huggingface_name(tensor.name), np.ascontiguousarray(weights)


def model_config(meta: Fields, *, tied_embeddings: bool) -> dict[str, Any]:
    """config.json of transformers' LlamaForCausalLM."""
    hidden, heads = meta["llama.embedding_length"], meta["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": meta["llama.vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": meta["llama.context_length"],
        # The file stores it as float32: 9.999999747378752e-06.
        "rms_norm_eps": round(meta["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": meta["llama.rope.freq_base"],
        "rope_scaling": None,
        "tie_word_embeddings": tied_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": hidden**-0.5,
        **token_ids(meta),
        "use_cache": True,
        "torch_dtype": "float32",
    }


def token_ids(meta: Fields) -> dict[str, int]:
    """Ids of the special tokens, as config.json and generation_config.json name them."""
    return {
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
    }


def tokenizer(meta: Fields) -> Tokenizer:
    """Byte-level BPE that splits digits one by one: llama.cpp's `smollm` pre-tokenizer."""
    if (kind := meta["tokenizer.ggml.pre"]) != "smollm":
        raise ValueError(f"the file's pre-tokenizer is {kind!r}; only 'smollm' is translated")
    vocabulary = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    ids = {token: index for index, token in enumerate(vocabulary)}
    built = Tokenizer(models.BPE(vocab=ids, merges=merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    built.decoder = decoders.ByteLevel()
    kinds = zip(vocabulary, meta["tokenizer.ggml.token_type"], strict=True)
    control = [token for token, kind in kinds if kind == CONTROL_TOKEN]
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return built


def tokenizer_config(meta: Fields) -> dict[str, Any]:
    """tokenizer_config.json, with the chat template the model was tuned with."""
    vocabulary = meta["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": vocabulary[meta["tokenizer.ggml.bos_token_id"]],
        "eos_token": vocabulary[meta["tokenizer.ggml.eos_token_id"]],
        "unk_token": vocabulary[meta["tokenizer.ggml.unknown_token_id"]],
        "pad_token": vocabulary[meta["tokenizer.ggml.padding_token_id"]],
        "chat_template": meta["tokenizer.chat_template"],
        "model_max_length": meta["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
