"""From a batch of pairs to the log-probabilities of its completions: the model's forward pass and its head.

EasyDeL's decoder gives hidden states; the head runs on the positions that predict a completion only. Where the logits of
all of them would be large, they are never whole: the forward pass keeps a running log-sum-exp over blocks of the
vocabulary and of the positions, and the backward pass computes each block again.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dpojob_api.mesh import DATA_AXES
from dpojob_trainer.training import plan
from dpojob_trainer.training.lookups import embedded, positions_at
from dpojob_trainer.training.places import axes_size, placed

Residuals = tuple[Any, ...]
LOWEST = float(jnp.finfo(jnp.float32).min)
WEIGHT_AXES = ("fsdp", "sp")
# A TPU's lanes: blocks of other widths would be laid out again.
TILE = 128


@dataclass(frozen=True)
class Head:
    """How the head is computed; all static.

    Attributes:
        vocabulary: entries of the vocabulary.
        shards: parts of the vocabulary that lie on different devices (mesh axis tp).
        columns: blocks of each part, one after the other.
        positions: blocks of the positions, one after the other.
        mesh: the devices; None for one device.
        precision: of the matrix products.
    """

    vocabulary: int
    shards: int = 1
    columns: int = 1
    positions: int = 1
    mesh: Any = None
    precision: Any = None

    @property
    def whole(self) -> bool:
        """Whether all logits are one block, which the backward pass then keeps."""
        return self.columns * self.positions == 1

    @property
    def width(self) -> int:
        """Entries of one block of one shard, the last ones may be beyond the vocabulary; of several blocks whole tiles."""
        share = -(-self.vocabulary // (self.shards * self.columns))
        return share if self.columns == 1 else -(-share // TILE) * TILE

    def first(self, column: Any) -> jax.Array:
        """Return the first entry of block `column` on each shard: `[shards]`."""
        return (jnp.arange(self.shards) * self.columns + column) * self.width

    def placed(self, array: jax.Array, *axes: Any) -> jax.Array:
        """Return `array` divided over mesh axes, where they divide its sizes; as it is on one device."""
        return placed(array, self.mesh, *axes)


def completion_logps(model: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return `chosen_logps` and `rejected_logps`, summed over the completions' tokens, each `[pairs]`, float32.

    Args:
        model: EasyDeL's module of a causal language model.
        batch: what :func:`batches.collate` makes.
    """
    ids, mask, places = (_stacked(batch, name) for name in ("input_ids", "attention_mask", "places"))
    labels, counts = _stacked(batch, "labels"), _stacked(batch, "label_mask")
    out = model(inputs_embeds=embedded(model, ids), attention_mask=mask, apply_lm_head=False)
    hidden = positions_at(out.last_hidden_state, places)
    head = _head_of(model, *labels.shape)
    tokens = token_logps(hidden.astype(model.dtype), head_rows(model), labels, head)
    sums = jnp.sum(jnp.where(counts > 0, tokens, 0.0), axis=-1)
    chosen, rejected = jnp.split(sums, 2)
    return {"chosen_logps": chosen, "rejected_logps": rejected}


def head_rows(model: Any) -> jax.Array:
    """Return the head's weights with a row per entry of the vocabulary: `[vocabulary, hidden]`."""
    if getattr(model.config, "tie_word_embeddings", False):
        rows: jax.Array = model.get_embedding().embedding.value
        return rows
    kernel: jax.Array = model.get_lm_head().kernel.value
    return kernel.T


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def token_logps(hidden: jax.Array, rows: jax.Array, labels: jax.Array, head: Head) -> jax.Array:
    """Return the log-probability of every label, float32 `[sequences, positions]`.

    Args:
        hidden: what predicts the labels `[sequences, positions, hidden]`.
        rows: the head's weights `[vocabulary, hidden]`; products are of the type of `hidden`.
        labels: ids `[sequences, positions]`.
        head: how it is computed.
    """
    return _forward(hidden, rows, labels, head)[0]


def _forward(
    hidden: jax.Array, rows: jax.Array, labels: jax.Array, head: Head
) -> tuple[jax.Array, Residuals]:
    parts, places, blocks = _parts(hidden, head), _parts(labels, head), _blocks(rows, head, hidden.dtype)
    shape = (*places.shape, head.shards)
    empty = (jnp.full(shape, LOWEST), jnp.zeros(shape), jnp.zeros(shape))
    kept = None
    if head.whole:
        kept = _logits(parts[0], blocks[0], 0, head)
        stats = tuple(one[None] for one in _seen((one[0] for one in empty), kept, places[0], 0, head))
    else:
        stats = _over_blocks(empty, parts, places, blocks, head)
    top, total, target = stats
    highest = top.max(-1, keepdims=True)
    normaliser = highest[..., 0] + jnp.log(jnp.sum(total * jnp.exp(top - highest), -1))
    return _joined(target.sum(-1) - normaliser, head), (hidden, rows, labels, normaliser, kept)


def _over_blocks(
    empty: tuple[jax.Array, ...], parts: jax.Array, places: jax.Array, blocks: jax.Array, head: Head
) -> tuple[jax.Array, ...]:
    def column(stats: tuple[jax.Array, ...], item: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        block, number = item
        block = head.placed(block, "tp", None, None)

        def part(one: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            states, place, *seen = one
            return _seen(seen, _logits(states, block, number, head), place, number, head)

        return jax.lax.map(part, (parts, places, *stats)), None

    stats: tuple[jax.Array, ...] = jax.lax.scan(column, empty, (blocks, jnp.arange(head.columns)))[0]
    return stats


def _seen(stats: Any, logits: jax.Array, labels: jax.Array, column: Any, head: Head) -> tuple[jax.Array, ...]:
    """Return largest logit, sum of exponentials above it and label's logit with one more block: `[.., shards]` each."""
    top, total, target = stats
    new = jnp.maximum(top, logits.max(-1))
    total = total * jnp.exp(top - new) + jnp.exp(logits - new[..., None]).sum(-1)
    local = labels[..., None] - head.first(column)
    inside = (local >= 0) & (local < head.width)
    found = jnp.take_along_axis(logits, jnp.clip(local, 0, head.width - 1)[..., None], -1)[..., 0]
    return new, total, target + jnp.where(inside, found, 0.0)


def _backward(head: Head, kept: Residuals, given: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    hidden, rows, labels, normaliser, logits = kept
    parts, places, blocks = _parts(hidden, head), _parts(labels, head), _blocks(rows, head, hidden.dtype)
    weights = _parts(given, head)
    if head.whole:
        slopes = _slopes(logits, places[0], normaliser[0], weights[0], 0, head).astype(hidden.dtype)
        to_hidden, to_rows = _products(slopes, parts[0], blocks[0], head)
        to_hidden, to_blocks = to_hidden[None], to_rows[None]
    else:
        to_hidden, to_blocks = _again(parts, places, blocks, normaliser, weights, head, rows.dtype)
    to_rows = _unblocked(to_blocks.astype(rows.dtype), head)
    return _joined(to_hidden, head).astype(hidden.dtype), to_rows, None


def _again(
    parts: jax.Array,
    places: jax.Array,
    blocks: jax.Array,
    normaliser: jax.Array,
    weights: jax.Array,
    head: Head,
    kind: Any,
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients by hidden states and by blocks of rows; every block of logits is computed once more."""

    def column(to_hidden: jax.Array, item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        block, number = item
        block = head.placed(block, "tp", None, None)

        def part(to_rows: jax.Array, one: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            states, place, norm, weight, before = one
            logits = _logits(states, block, number, head)
            slopes = _slopes(logits, place, norm, weight, number, head).astype(states.dtype)
            more_hidden, more_rows = _products(slopes, states, block, head)
            return to_rows + more_rows, before + more_hidden

        none = jnp.zeros(block.shape, jnp.float32)
        to_rows, to_hidden = jax.lax.scan(part, none, (parts, places, normaliser, weights, to_hidden))
        return to_hidden, head.placed(to_rows.astype(kind), "tp", None, WEIGHT_AXES)

    start = jnp.zeros(parts.shape, jnp.float32)
    to_hidden, to_rows = jax.lax.scan(column, start, (blocks, jnp.arange(head.columns)))
    return to_hidden, to_rows


def _logits(hidden: jax.Array, block: jax.Array, column: Any, head: Head) -> jax.Array:
    """Return one block of logits, float32 `[sequences, positions, shards, width]`."""
    logits = _product("btd,scd->btsc", hidden, block, head)
    if head.width * head.columns * head.shards == head.vocabulary:
        return logits
    return jnp.where(_entries(column, head) < head.vocabulary, logits, LOWEST)


def _slopes(
    logits: jax.Array, labels: jax.Array, normaliser: jax.Array, weights: jax.Array, column: Any, head: Head
) -> jax.Array:
    """Return the gradient by a block of logits: the label less the probabilities, times what is given from above."""
    hit = labels[..., None, None] == _entries(column, head)
    return weights[..., None, None] * (hit - jnp.exp(logits - normaliser[..., None, None]))


def _products(
    slopes: jax.Array, hidden: jax.Array, block: jax.Array, head: Head
) -> tuple[jax.Array, jax.Array]:
    to_hidden = _product("btsc,scd->btd", slopes, block, head)
    return to_hidden, _product("btsc,btd->scd", slopes, hidden, head)


def _product(subscripts: str, one: jax.Array, two: jax.Array, head: Head) -> jax.Array:
    return jnp.einsum(subscripts, one, two, precision=head.precision, preferred_element_type=jnp.float32)


def _entries(column: Any, head: Head) -> jax.Array:
    return head.first(column)[:, None] + jnp.arange(head.width)


def _parts(array: jax.Array, head: Head) -> jax.Array:
    """Return `[sequences, positions, ..]` as `[blocks, sequences, positions of a block, ..]`.

    A block takes every so many-th position, so that each device of the mesh's axis sp has a share of every block.
    """
    rest = [None] * (array.ndim - 2)
    array = head.placed(array, DATA_AXES, "sp", *rest)
    shape = (array.shape[0], array.shape[1] // head.positions, head.positions, *array.shape[2:])
    return jnp.moveaxis(array.reshape(shape), 2, 0)


def _joined(parts: jax.Array, head: Head) -> jax.Array:
    whole = jnp.moveaxis(parts, 0, 2)
    return whole.reshape(whole.shape[0], whole.shape[1] * head.positions, *whole.shape[3:])


def _blocks(rows: jax.Array, head: Head, kind: Any) -> jax.Array:
    """Return `[vocabulary, hidden]` as `[columns, shards, width, hidden]`, filled up with zeros."""
    missing = head.shards * head.columns * head.width - head.vocabulary
    rows = jnp.pad(rows, ((0, missing), (0, 0))) if missing else rows
    blocks = jnp.moveaxis(rows.astype(kind).reshape(head.shards, head.columns, head.width, -1), 1, 0)
    return head.placed(blocks, None, "tp", None, None if head.whole else WEIGHT_AXES)


def _unblocked(blocks: jax.Array, head: Head) -> jax.Array:
    rows = jnp.moveaxis(blocks, 0, 1)
    return rows.reshape(-1, rows.shape[-1])[: head.vocabulary]


def _stacked(batch: dict[str, jax.Array], name: str) -> jax.Array:
    """Return an array of both sides as one `[2 pairs, ..]`, the chosen ones first."""
    return jnp.concatenate([batch[f"chosen_{name}"], batch[f"rejected_{name}"]])


def _head_of(model: Any, sequences: int, positions: int) -> Head:
    shape, vocabulary = model.mesh.shape, model.config.vocab_size
    divided = positions // shape["sp"] if positions % shape["sp"] == 0 else positions
    shards = -(-sequences // axes_size(shape, DATA_AXES))
    columns, blocks = plan.head_blocks(shards, divided, -(-vocabulary // shape["tp"]))
    return Head(vocabulary, shape["tp"], columns, blocks, model.mesh, model.precision)


token_logps.defvjp(_forward, _backward)
