"""What annotations of arrays are made of: `Float[Array, 'B T D']` says the dtype, then the axes.

Axes: B rows, T positions, D width, N tokens of a slice or heads of the queries, K heads of keys and
values, H width of a head, F hidden width or frames, S slots of speech, V vocabulary, U units. The
tests check them (tests/conftest.py); elsewhere they cost nothing.
"""

import jax
from jaxtyping import Bool, Float, Int, Key, Shaped
import numpy as np

Array = jax.Array | np.ndarray

__all__ = ['Array', 'Bool', 'Float', 'Int', 'Key', 'Shaped']
