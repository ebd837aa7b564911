"""The authors' released code at work, for `launch.bench released`.

Runs in an interpreter of its own, with torch and without JAX (`python -m launch.bench.authors`).
Nothing of the released code lies here: it is imported from a checkout.
"""
