"""EchoX in JAX: speech-to-speech language models whose spoken answers are as good as their text
answers.

  import echox_jax
  model = echox_jax.load('out/demo/model')
"""

__version__ = '0.1.0'


def load(folder):
  """Opens an exported model folder; see `echox_jax.model_folder.load`."""
  from echox_jax import model_folder  # imported late: `import echox_jax` alone stays instant
  from echox_jax.parallel import jax_versions

  jax_versions.check()
  return model_folder.load(folder)
