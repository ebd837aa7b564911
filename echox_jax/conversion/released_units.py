"""Released EchoX weights, unit part (`unit_translator.*`, facts 9) -> frozen text embeddings, a
unit decoder, the denoising adapter.
"""

from collections.abc import Mapping

import numpy as np

from echox_jax.config import EchoXConfig
from echox_jax.conversion import rules
from echox_jax.conversion.released import UNIT_PREFIX, trunk_rules
from echox_jax.conversion.rules import Rule
from echox_jax.models.params import param_shapes

ALIGNER = f'{UNIT_PREFIX}aligner_MLP.'


def import_units(weights: Mapping[str, np.ndarray], cfg: EchoXConfig, group: str = 'echo') -> dict:
  """Converts the unit decoder; skips tensors outside `unit_translator.*`.

  Args:
    weights: released key -> array.
    cfg: has the sizes of the checkpoint.
    group: the group of the decoder: `echo`, or `t2c` for a stage 2 checkpoint.

  Returns:
    {'unit_text_embedding': ..., group: ..., 'denoising_adapter': ...}, float32 numpy; the last only
    if the checkpoint has one (stage 2 has none).

  Raises:
    CheckpointError: lists every tensor that is missing, unused or of another shape.
  """
  own = {name: value for name, value in weights.items() if name.startswith(UNIT_PREFIX)}
  adapted = any(name.startswith(ALIGNER) for name in own)
  groups = ('unit_text_embedding', group, *(('denoising_adapter',) if adapted else ()))
  return rules.convert(
    own, unit_rules(cfg, group, adapted), 'this unit decoder', param_shapes(cfg, groups)
  )


def unit_rules(cfg: EchoXConfig, group: str = 'echo', adapted: bool = True) -> list[Rule]:
  """The released tensor of each parameter; `adapted`: whether there is a denoising adapter."""
  adapter = [
    *rules.linear('denoising_adapter/fc1', f'{ALIGNER}0'),
    *rules.linear('denoising_adapter/fc2', f'{ALIGNER}3'),
  ]
  return [
    Rule('unit_text_embedding/embedding', f'{UNIT_PREFIX}model.embed_tokens.weight'),
    Rule(f'{group}/unit_embedding/embedding', f'{UNIT_PREFIX}unit_embedding.weight'),
    *rules.linear(f'{group}/adapter', f'{UNIT_PREFIX}adapter'),
    *trunk_rules(f'{group}/trunk', f'{UNIT_PREFIX}model', cfg.unit_decoder.trunk),
    Rule(f'{group}/lm_head/embedding', f'{UNIT_PREFIX}lm_head.weight'),
    *(adapter if adapted else ()),
  ]
