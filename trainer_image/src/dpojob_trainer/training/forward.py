"""Log probabilities of both completions under a model, with EasyDeL's language model head.

EasyDeL's own ``concatenated_forward`` pads prompt and completion each to a width of its own and computes the logits of
both; here a completion follows its prompt at once, and the head sees the completions alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
from easydel.trainers.direct_preference_optimization_trainer._fn import (
    _compute_dpo_outputs_from_hidden_states,
    _compute_token_logps_chunked,
    _resolve_dpo_lmhead_chunksize,
)

Arrays = dict[str, jax.Array]


def log_probabilities(model: Any, batch: Arrays) -> Arrays:
    """Return `chosen_logps` and `rejected_logps` `[pairs]`: sums over the completions' tokens.

    Args:
        model: an EasyDeL causal language model.
        batch: what `batches.collate` returns.
    """
    ids, mask, places = (stacked(batch, name) for name in ("input_ids", "attention_mask", "places"))
    labels, targets = stacked(batch, "labels"), stacked(batch, "label_mask").astype(bool)
    out = model(input_ids=ids, attention_mask=mask, apply_lm_head=False)
    hidden = jnp.take_along_axis(out.last_hidden_state, places[..., None], axis=1)
    chunk = _resolve_dpo_lmhead_chunksize(model)
    if chunk is None:
        logits = model.make_lm_head_fn()(model.prepare_lm_head_inputs(hidden))
        logps = _compute_token_logps_chunked(logits, labels, chunk_size=None)
        chosen, rejected = jnp.split(jnp.where(targets, logps, 0.0).sum(-1), 2)
        return {"chosen_logps": chosen, "rejected_logps": rejected}
    found: Arrays = _compute_dpo_outputs_from_hidden_states(
        model=model,
        hidden_states=hidden,
        labels=labels,
        loss_mask=targets,
        num_examples=ids.shape[0] // 2,
        chunk_size=chunk,
        logprob_vocab_chunk_size=None,
        # Any other type than ipo returns sums over tokens; the loss takes the average itself.
        loss_type="sigmoid",
    )
    return {name: found[name] for name in ("chosen_logps", "rejected_logps")}


def stacked(batch: Arrays, name: str) -> jax.Array:
    """Return an array of both sides as one `[2 x pairs, ..]`, the chosen ones first."""
    return jnp.concatenate([batch[f"chosen_{name}"], batch[f"rejected_{name}"]])
