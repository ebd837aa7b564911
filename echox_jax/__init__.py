"""EchoX in JAX: speech-to-speech language models whose spoken answer is as clever as the text answer.

  import echox_jax
  model = echox_jax.load('out/demo/model')
"""

__version__ = '0.1.0'


def load(folder):
  """Opens an exported model folder; see `echox_jax.bundle.load`."""
  from echox_jax import bundle, jax_versions  # imported late: `import echox_jax` alone stays instant
  jax_versions.check()
  return bundle.load(folder)
