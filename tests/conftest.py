"""Settings that must stand before JAX starts."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# The tests compile much and compute little: unoptimised code is made in two thirds of the time. Tolerances are the same.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')
