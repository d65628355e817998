"""Completions of a few prompts by the base and by the tuned model, for the report: greedy, on the job's own mesh.

Every token is one forward pass of the training's kind over the whole sequences, without a cache of keys and values: the
kernel, the shardings and the numbers are those that training has already proven on this slice.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from datasets import Dataset
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray

from dpojob_api.constants import OUTPUT_BASE_SAMPLES
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, store
from dpojob_trainer.training.agreement import meet
from dpojob_trainer.training.batches import pad
from dpojob_trainer.training.step import on_data_axes, own_model
from dpojob_trainer.weights.checkpoint import read_json

log = logging.getLogger(__name__)

Ids = list[int]
Ints = NDArray[np.int32]
# Attention kernels on TPU take sequences in blocks of this many positions.
BLOCK = 128


@dataclass(frozen=True)
class Sampler:
    """Completes the same prompts with whichever model it is given.

    Attributes:
        rows: the pairs whose prompts are completed: lists of ids.
        ids: the prompts, padded on the left to `width` and on the right to a whole sequence `[rows, length]`.
        mask: 0 on the left of a prompt, 1 elsewhere `[rows, length]`; causal attention hides what is not written yet.
        width: where completions begin.
        new_tokens: their largest number of tokens.
        ends: ids that end a completion.
        held_out: whether the prompts were held out.
        tokenizer: turns ids into text.
    """

    rows: list[dict[str, Ids]]
    ids: Ints
    mask: Ints
    width: int
    new_tokens: int
    ends: tuple[int, ...]
    held_out: bool
    tokenizer: Any

    def complete(self, state: Any, shardings: Any, name: str) -> list[Ids] | None:
        """Return the model's completions of all prompts, ends included; a collective, so all processes must call it.

        A failure is logged and gives None: the tuned model is worth more than a sample of it.
        """
        try:
            tokens = self._run(state, shardings, name)
        except Exception as error:
            log.warning("completions of the %s model failed: %s: %s", name, type(error).__name__, error)
            return None
        return [until_end(row, self.ends) for row in tokens[: len(self.rows)].tolist()]

    def _run(self, state: Any, shardings: Any, name: str) -> Ints:
        mesh = state.model.mesh
        everywhere = NamedSharding(mesh, PartitionSpec())
        program = jax.jit(
            lambda state, ids, mask: greedy(state, ids, mask, self.width, self.new_tokens, self.ends),
            in_shardings=(shardings, everywhere, everywhere),
            out_shardings=everywhere,
        )
        with mesh:
            compiled = program.lower(state, self.ids, self.mask).compile()
            meet(f"dpojob-sample-{name}-compiled")
            found = compiled(state, self.ids, self.mask)
        return np.asarray(found.addressable_data(0))[:, self.width : self.width + self.new_tokens]

    def report(self, before: Sequence[Ids] | None, after: Sequence[Ids] | None) -> dict[str, Any] | None:
        """Return what summary.json says about the completions; None without those of the tuned model."""
        if after is None:
            return None
        firsts: Sequence[Ids | None] = before if before is not None else [None] * len(self.rows)
        return {
            "heldOut": self.held_out,
            "maxNewTokens": self.new_tokens,
            "completions": [
                {"prompt": self._text(row["prompt_ids"])}
                | {side: self._text(row[f"{side}_ids"]) for side in ("chosen", "rejected")}
                | self._told("before", old)
                | self._told("after", new)
                for row, old, new in zip(self.rows, firsts, after, strict=True)
            ],
        }

    def _told(self, name: str, ids: Ids | None) -> dict[str, Any]:
        if ids is None:
            return {name: None, f"{name}Tokens": None, f"{name}Ended": None}
        ended = bool(ids) and ids[-1] in self.ends
        return {name: self._text(ids), f"{name}Tokens": len(ids) - ended, f"{name}Ended": ended}

    def _text(self, ids: Ids) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def of_untrained(
    sampler: Sampler | None, trainer: Any, resumed: int, out: store.OutputStore, rank: int
) -> list[Ids] | None:
    """Return the base model's completions if only now is the time: without a reference in memory, before the first step.

    Host 0 keeps them in the output for attempts that resume.
    """
    if sampler is None or trainer.reference_state is not None:
        return None
    if resumed:
        return _kept(out, sampler)
    found = sampler.complete(trainer.model_state, trainer.state_shardings, "base")
    if found is not None and rank == 0:
        out.write_text(OUTPUT_BASE_SAMPLES, json.dumps(found))
    return found


def _kept(out: store.OutputStore, sampler: Sampler) -> list[Ids] | None:
    """Return the completions that an earlier attempt kept; None if they are not there or of other prompts."""
    try:
        found: list[Ids] = json.loads(out.read_text(OUTPUT_BASE_SAMPLES))
    except (FileNotFoundError, ValueError):
        return None
    return found if len(found) == len(sampler.rows) else None


def of_tuned(
    sampler: Sampler | None, trainer: Any, state: Any, before: list[Ids] | None
) -> dict[str, Any] | None:
    """Return what is told about both models' completions; the reference still is what the policy was."""
    if sampler is None:
        return None
    reference = trainer.reference_state
    if reference is not None:
        before = sampler.complete(reference, reference.shardings, "base")
    return sampler.report(before, sampler.complete(state, trainer.state_shardings, "tuned"))


def sampler(
    config: TrainerConfig, prepared: data.PreparedData, model_dir: Path, pad_id: int
) -> Sampler | None:
    """Return what completes the first prompts that were held out, or of the training pairs if none were; None for 0."""
    pairs = prepared.train if prepared.evaluation is None else prepared.evaluation
    rows = first_prompts(pairs, config.output.sample_completions)
    if not rows:
        return None
    mesh = config.plan.mesh
    new_tokens = min(config.output.sample_tokens, config.dpo.max_completion_length)
    width = max(len(row["prompt_ids"]) for row in rows)
    whole = config.dpo.max_prompt_length + config.dpo.max_completion_length
    length = min(whole, rounded_up(width + new_tokens, BLOCK * mesh.sp))
    # Every device of the data axes has at least one row; those beyond the prompts repeat them.
    count = rounded_up(len(rows), prod((mesh.dp, mesh.fsdp)))
    prompts = [rows[at % len(rows)]["prompt_ids"] for at in range(count)]
    ids, mask = pad(prompts, width, pad_id, left=True)
    rest = (count, length - width)
    return Sampler(
        rows=rows,
        ids=np.concatenate([ids, np.full(rest, pad_id, np.int32)], axis=1),
        mask=np.concatenate([mask, np.ones(rest, np.int32)], axis=1),
        width=width,
        new_tokens=new_tokens,
        ends=end_ids(prepared.tokenizer, model_dir),
        held_out=prepared.evaluation is not None,
        tokenizer=prepared.tokenizer,
    )


def greedy(
    state: Any, ids: jax.Array, mask: jax.Array, width: int, new_tokens: int, ends: tuple[int, ...]
) -> jax.Array:
    """Return `ids` `[rows, length]` with the likeliest tokens from `width` on, until all rows have ended."""

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        at, _, done = carry
        return (at < width + new_tokens) & ~jnp.all(done)

    def one_more(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        at, ids, done = carry
        model = own_model(state)
        out = model(**on_data_axes({"input_ids": ids, "attention_mask": mask}), apply_lm_head=False)
        newest = jax.lax.dynamic_slice_in_dim(out.last_hidden_state, at - 1, 1, axis=1)
        likeliest = jnp.argmax(model.make_lm_head_fn()(newest)[:, 0].astype(jnp.float32), axis=-1)
        token = jnp.where(done, ends[0], likeliest).astype(ids.dtype)
        ids = jax.lax.dynamic_update_slice_in_dim(ids, token[:, None], at, axis=1)
        return at + 1, ids, done | jnp.isin(token, jnp.asarray(ends))

    start = (jnp.asarray(width), ids, jnp.zeros(ids.shape[0], bool))
    return jax.lax.while_loop(unfinished, one_more, start)[1]


def first_prompts(pairs: Dataset, count: int) -> list[dict[str, Ids]]:
    """Return the first pairs with prompts that differ."""
    found: dict[tuple[int, ...], dict[str, Ids]] = {}
    for at in range(len(pairs)):
        if len(found) == count:
            break
        found.setdefault(tuple(pairs[at]["prompt_ids"]), pairs[at])
    return list(found.values())


def end_ids(tokenizer: Any, model_dir: Path) -> tuple[int, ...]:
    """Return the ids that end a completion: the tokenizer's EOS first, then those of generation_config.json."""
    file = model_dir / "generation_config.json"
    named = read_json(file).get("eos_token_id") if file.is_file() else None
    more = named if isinstance(named, list) else [named]
    return tuple(dict.fromkeys(int(end) for end in (tokenizer.eos_token_id, *more) if end is not None))


def until_end(ids: Ids, ends: tuple[int, ...]) -> Ids:
    """Return ids up to the first end, which stays."""
    at = next((at for at, token in enumerate(ids) if token in ends), len(ids) - 1)
    return ids[: at + 1]


def rounded_up(number: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is not below `number`."""
    return -(-number // unit) * unit
