"""Types for array annotations: `Float[Array, 'B T D']` gives the dtype, then the axes.

Axes: B rows, T positions, D width, N tokens of a slice or query heads, K key/value heads, H head
width, F hidden width or frames, S slots of speech, V vocabulary, U units. Only the tests check the
annotations (tests/conftest.py); elsewhere they cost nothing.
"""

import jax
from jaxtyping import Bool, Float, Int, Key, Shaped, UInt
import numpy as np

Array = jax.Array | np.ndarray

__all__ = ['Array', 'Bool', 'Float', 'Int', 'Key', 'Shaped', 'UInt']
