"""EchoX in JAX: speech-to-speech language models whose spoken answers are as good as their text
answers.

  import echox_jax
  model = echox_jax.load('out/demo/model')
  chat = model.chat(temperature=0.2, top_p=0.9)
  reply = chat.ask('question.wav')
"""

__version__ = '0.1.0'


def load(folder, dtype=None, mesh=None, int8=False):
  """Opens a model as `echox_jax.inference.chat.Model`.

  Args:
    folder: an exported or imported model folder, or the name of a model that comes with the
      repository, such as `echox-nano` (`echox_jax.conversion.pretrained`).
    dtype: `float32` or `bfloat16`: what computes, all but the vocoder; None = as the folder says.
    mesh: devices to split the model over: a `jax.sharding.Mesh` of `parallel.sharding.make_mesh`,
      or its sizes, such as `{'tensor': 8}`; None = one device.
    int8: whether to hold the kernels of the LLM and of the echo decoder as int8, a quarter of
      float32. On a CPU that is slower.

  Raises:
    EchoXError: as `echox_jax.model_folder.load`; or no such dtype, or a mesh that does not fit; or
      the packages that a model of the repository needs are not installed.
  """
  from echox_jax.conversion import pretrained  # imported late: `import echox_jax` stays instant
  from echox_jax.inference import chat
  from echox_jax.parallel import jax_versions

  jax_versions.check()
  return chat.load(pretrained.find(folder), dtype, mesh, int8)
