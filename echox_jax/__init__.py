"""EchoX in JAX: speech-to-speech language models whose spoken answers are as good as their text
answers.

  import echox_jax
  model = echox_jax.load('out/demo/model')
  chat = model.chat(temperature=0.2, top_p=0.9)
  reply = chat.ask('question.wav')
"""

__version__ = '0.1.0'


def load(folder):
  """Opens an exported model folder as `echox_jax.inference.chat.Model`.

  Raises:
    EchoXError: as `echox_jax.model_folder.load`.
  """
  from echox_jax import model_folder  # imported late: `import echox_jax` alone stays instant
  from echox_jax.inference.chat import Model
  from echox_jax.parallel import jax_versions

  jax_versions.check()
  return Model(**vars(model_folder.load(folder)))
