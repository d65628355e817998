"""The mapping between EasyDeL's parameter paths and Hugging Face's tensor names, derived from the module itself.

EasyDeL keeps Hugging Face's module paths and renames only the leaves: a linear layer's `weight` [out, in] is its
`kernel` [in, out]; an embedding's `weight` is `embedding`; a norm's `weight` is `kernel` or `scale`
(``easydel/utils/parameters_transformation.py``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LEAF_NAMES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
# Buffers that older checkpoints carry and that are computed from the configuration.
COMPUTED_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Parameter:
    """One parameter on both sides."""

    path: Path
    name: str
    shape: tuple[int, ...]
    transposed: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape in the Hugging Face file."""
        return tuple(reversed(self.shape)) if self.transposed else self.shape


def parameter(path: Path, shape: tuple[int, ...]) -> Parameter:
    """Describe the EasyDeL parameter at `path` with `shape`."""
    *parents, leaf = (str(part) for part in path)
    name = ".".join([*parents, LEAF_NAMES.get(leaf, leaf)])
    return Parameter(path, name, shape, transposed=leaf == "kernel" and len(shape) == 2)


def parameters(leaves: Iterable[tuple[Path, Any]], *, tied: bool) -> list[Parameter]:
    """Describe all parameters that a checkpoint holds, in the module's order.

    With tied embeddings EasyDeL still makes a head and then multiplies by the embedding; Hugging Face stores none.
    """
    found = [parameter(path, tuple(value.shape)) for path, value in leaves if value is not None]
    return [item for item in found if not (tied and is_head(item.path))]


def is_head(path: Path) -> bool:
    """Whether a parameter is the output head's matrix."""
    return path == ("lm_head", "kernel")


def unexpected(present: set[str], expected: set[str], *, tied: bool) -> list[str]:
    """Names in the checkpoint that the module has no place for, sorted."""
    harmless = {"lm_head.weight"} if tied else set()
    return sorted(name for name in present - expected - harmless if not name.endswith(COMPUTED_BUFFERS))
