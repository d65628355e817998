"""The largest float32 matrix product rate of this machine, in FLOP/s: ``python -m benchmarks.trainers.gemm``."""

import time

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 2048
REPEATS = 5


def rate(multiply: object, one: object) -> float:
    """Return the best rate of a few products."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        multiply(one, one)  # type: ignore[operator]
        seconds.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(seconds)


def main() -> None:
    """Print the better one of XLA's and NumPy's."""
    host = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    product = jax.jit(jnp.matmul)
    print(max(rate(np.matmul, host), rate(lambda a, b: product(a, b).block_until_ready(), jnp.asarray(host))))


if __name__ == "__main__":
    main()
