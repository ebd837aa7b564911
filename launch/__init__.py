import os

# On a CPU XLA logs an error for each program that it loads from the cache of compiled programs: it
# takes two of its own tuning choices (prefer-no-gather, prefer-no-scatter) for features that the
# machine lacks. This runs before JAX is imported.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
