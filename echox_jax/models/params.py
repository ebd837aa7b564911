"""Fresh parameters of any set of parameter groups, boxed with their logical axis names."""

from collections.abc import Callable, Iterable
import functools
import importlib
from typing import Any

from flax import linen as nn
import jax

from echox_jax import trees
from echox_jax.config import EchoXConfig
from echox_jax.models import layers

# Group -> module and function `(key, cfg) -> boxed params`; modules are imported when their group is asked for.
_INITS = {
    'whisper': ('whisper', 'init_whisper'),
    'adapter': ('adapter', 'init_adapter'),
    'llm': ('llama', 'init_llm'),
    't2c': ('unit_decoder', 'init_unit_decoder'),
    'echo': ('unit_decoder', 'init_unit_decoder'),
    'denoising_adapter': ('unit_decoder', 'init_denoising_adapter'),
    'vocoder': ('vocoder', 'init_vocoder'),
    'discriminators': ('discriminators', 'init_discriminators'),
    'hubert': ('hubert', 'init_hubert'),
}
GROUPS = ('unit_text_embedding', *_INITS)


def init_groups(key: jax.Array, cfg: EchoXConfig, groups: Iterable[str]) -> dict[str, Any]:
  """Dict of boxed parameter trees, one a group.

  The key of a group depends on its name alone, so that a group starts from the same values in every stage.
  """
  return {group: _init(group)(jax.random.fold_in(key, GROUPS.index(group)), cfg) for group in groups}


def param_shapes(cfg: EchoXConfig, groups: Iterable[str]) -> dict[str, tuple[int, ...]]:
  """{`group/path/to/leaf`: shape} of any set of groups; nothing is computed."""
  return dict(_param_shapes(cfg, tuple(groups)))


@functools.lru_cache(maxsize=16)  # tracing takes a second, and conversions ask several times
def _param_shapes(cfg: EchoXConfig, groups: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
  made = jax.eval_shape(lambda key: nn.meta.unbox(init_groups(key, cfg, groups)), jax.random.key(0))
  return {path: leaf.shape for path, leaf in trees.flatten(made).items()}


def init_unit_text_embedding(key: jax.Array, cfg: EchoXConfig) -> dict[str, Any]:
  """The text table [V,D] of the unit decoders; in training it is a copy of the LLM's."""
  init = nn.with_logical_partitioning(layers.default_init, ('vocab', 'table_embed'))
  return {'embedding': init(key, (cfg.llm.vocab_size, cfg.llm.hidden_size))}


def _init(group: str) -> Callable[[jax.Array, EchoXConfig], dict[str, Any]]:
  if group == 'unit_text_embedding':
    return init_unit_text_embedding
  module, function = _INITS[group]
  return getattr(importlib.import_module(f'echox_jax.models.{module}'), function)
