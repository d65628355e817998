"""Reading side of weights: safetensors of a Hugging Face model directory, one file or many with an index."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
FLOATING = {"F32", "BF16", "F16"}


@dataclass(frozen=True)
class Checkpoint:
    """Open files by tensor name; valid inside :func:`open_checkpoint`."""

    slices: dict[str, Any]

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self.slices)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor as stored."""
        return tuple(self.slices[name].get_shape())

    def dtype(self, name: str) -> str:
        """Stored type in safetensors' words, e.g. BF16."""
        return str(self.slices[name].get_dtype())

    def read(self, name: str, index: tuple[slice, ...]) -> NDArray[Any]:
        """Return a part of a tensor; only that part is read from disk."""
        part: NDArray[Any] = self.slices[name][index]
        return part


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of the model directory.

    Raises:
        TrainerError: MODEL_NOT_FOUND when it is missing or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_found(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise _not_found(f"{path.name} holds no JSON object")
    return content


@contextmanager
def open_checkpoint(directory: Path) -> Iterator[Checkpoint]:
    """Open the safetensors of `directory`.

    Raises:
        TrainerError: MODEL_NOT_FOUND when a file is missing or broken.
    """
    with ExitStack() as stack:
        slices: dict[str, Any] = {}
        for file in _files(directory):
            try:
                opened = stack.enter_context(safe_open(directory / file, framework="numpy"))
            except (OSError, SafetensorError) as error:
                raise _not_found(f"{file} cannot be read: {error}; fetch the model again") from error
            slices |= {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        yield Checkpoint(slices)


def _files(directory: Path) -> list[str]:
    if (directory / INDEX_FILE).is_file():
        weight_map = read_json(directory / INDEX_FILE).get("weight_map")
        if isinstance(weight_map, dict):
            return sorted(set(weight_map.values()))
        raise _not_found(f"{INDEX_FILE} has no weight_map")
    if (directory / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    raise _not_found(f"it has neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors are loaded")


def _not_found(problem: str) -> TrainerError:
    return TrainerError(
        TrainerReason.MODEL_NOT_FOUND, f"The model directory is not in Hugging Face layout: {problem}."
    )


def unsupported(problem: str) -> TrainerError:
    """Return the error for a model that is there and cannot be trained."""
    return TrainerError(TrainerReason.MODEL_UNSUPPORTED, f"The model cannot be trained: {problem}.")


def floating(dtype: str) -> bool:
    """Whether a stored type is one of the plain floating point types."""
    return dtype in FLOATING


def transposed(index: tuple[slice, ...]) -> tuple[slice, ...]:
    """Index of the transposed tensor."""
    return tuple(reversed(index))


def whole(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Replace open ends of slices by numbers, which safetensors' slices need."""
    return tuple(slice(*part.indices(size)) for part, size in zip(index, shape, strict=True))


def contiguous(part: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return `part` in C order and in `dtype`; bit-exact when it has that type already."""
    return np.ascontiguousarray(part.astype(dtype, copy=False))
