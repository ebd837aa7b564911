"""Initialises parameters of any set of parameter groups, boxed with their logical axis names."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh

from echox_jax import errors
from echox_jax.config import DiscriminatorConfig, EchoXConfig
from echox_jax.models import layers, trees
from echox_jax.models.adapter import init_adapter
from echox_jax.models.discriminators import init_discriminators
from echox_jax.models.hubert import init_hubert
from echox_jax.models.llama import init_llm
from echox_jax.models.unit_decoder import init_denoising_adapter, init_unit_decoder
from echox_jax.models.vocoder import init_vocoder
from echox_jax.models.whisper import init_whisper
from echox_jax.parallel import sharding


def init_unit_text_embedding(key: jax.Array, cfg: EchoXConfig) -> dict[str, Any]:
  """Makes the text table of the unit decoders; in training it is a copy of the LLM's."""
  init = nn.with_logical_partitioning(layers.default_init, ('vocab', 'table_embed'))
  return {'embedding': init(key, (cfg.llm.vocab_size, cfg.llm.hidden_size))}


# Group -> function `(key, cfg) -> boxed params`. A group's index in the table determines its key.
# The sizes of the discriminators are not part of the model; they have their own config.
_INITS: dict[str, Callable[[jax.Array, Any], dict[str, Any]]] = {
  'unit_text_embedding': init_unit_text_embedding,
  'whisper': init_whisper,
  'adapter': init_adapter,
  'llm': init_llm,
  't2c': init_unit_decoder,
  'echo': init_unit_decoder,
  'denoising_adapter': init_denoising_adapter,
  'vocoder': init_vocoder,
  'discriminators': init_discriminators,
  'hubert': init_hubert,
}
GROUPS = tuple(_INITS)
_LISTED = 20  # maximum number of tensors that an error lists per kind of problem


def init_groups(
  key: jax.Array,
  cfg: EchoXConfig,
  groups: Iterable[str],
  discriminators: DiscriminatorConfig = DiscriminatorConfig(),
) -> dict[str, Any]:
  """Makes boxed parameter trees, one per group.

  A group's key depends only on its name, so a group starts from the same values in every stage.
  """
  return {
    group: _INITS[group](
      jax.random.fold_in(key, GROUPS.index(group)),
      discriminators if group == 'discriminators' else cfg,
    )
    for group in groups
  }


def abstract_params(
  cfg: EchoXConfig,
  groups: Iterable[str],
  mesh: Mesh | AbstractMesh,
  discriminators: DiscriminatorConfig = DiscriminatorConfig(),
) -> dict[str, Any]:
  """Returns shapes and shardings of the parameters of `groups`, without computing anything.

  Raises:
    ConfigError: the mesh does not fit the parameters.
  """
  boxed = jax.eval_shape(
    lambda key: init_groups(key, cfg, groups, discriminators), jax.random.key(0)
  )
  return jax.tree.map(
    lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
    sharding.unbox(boxed),
    sharding.param_shardings(boxed, mesh),
  )


def param_shapes(
  cfg: EchoXConfig,
  groups: Iterable[str],
  discriminators: DiscriminatorConfig = DiscriminatorConfig(),
) -> dict[str, tuple[int, ...]]:
  """Returns {`group/path/to/leaf`: shape} of any set of groups, without computing anything."""
  return dict(_param_shapes(cfg, tuple(groups), discriminators))


@functools.lru_cache(maxsize=16)  # tracing takes a second, and conversions call it several times
def _param_shapes(
  cfg: EchoXConfig, groups: tuple[str, ...], discriminators: DiscriminatorConfig
) -> dict[str, tuple[int, ...]]:
  made = jax.eval_shape(
    lambda key: nn.meta.unbox(init_groups(key, cfg, groups, discriminators)), jax.random.key(0)
  )
  return {path: leaf.shape for path, leaf in trees.flatten(made).items()}


def check_shapes(
  found: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]], what: str
) -> None:
  """Compares the names and shapes of a checkpoint's tensors with the expected ones.

  Raises:
    CheckpointError: tensors are missing, unused or have a wrong shape. The message lists the first
      of each kind and counts the rest.
  """
  problems = {
    'missing': sorted(wanted.keys() - found.keys()),
    'not used': sorted(found.keys() - wanted.keys()),
    'wrong shape': [
      f'{name} {list(found[name])} for {list(shape)}'
      for name, shape in sorted(wanted.items())
      if name in found and tuple(found[name]) != tuple(shape)
    ],
  }
  listed = [
    f'{label}: {", ".join(names[:_LISTED])}'
    + (f' and {len(names) - _LISTED} more' if len(names) > _LISTED else '')
    for label, names in problems.items()
    if names
  ]
  if listed:
    raise errors.CheckpointError(
      f'These tensors are not those of {what} ({"; ".join(listed)}): give the checkpoint that '
      'fits the config.'
    )
