"""Makes a loaded model ready for answering: weights in the dtype that computes with them, LoRA
folded in, everything on one device or split over a mesh.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from echox_jax import errors
from echox_jax.config import EchoXConfig
from echox_jax.decoding import generate
from echox_jax.inference import compiled
from echox_jax.models import adapter, llama, lora, quantize, trees
from echox_jax.models import params as params_lib
from echox_jax.parallel import sharding

DTYPES = ('float32', 'bfloat16')
_TRUNKS = ('llm', 'echo', 't2c')  # groups that hold a stack of layers and a head
_WEIGHTS = ('kernel', 'embedding', *lora.LEAVES)  # norms and biases stay float32


def with_dtype(cfg: EchoXConfig, dtype: str) -> EchoXConfig:
  """Returns a config whose parts compute in `dtype`, all but the vocoder: its phases need float32.

  Raises:
    ConfigError: another dtype than `DTYPES`.
  """
  if dtype not in DTYPES:
    raise errors.ConfigError(f'dtype is {dtype!r}: use one of {", ".join(DTYPES)}.')
  change = dataclasses.replace
  return change(
    cfg,
    whisper=change(cfg.whisper, dtype=dtype),
    adapter=change(cfg.adapter, dtype=dtype),
    llm=change(cfg.llm, dtype=dtype),
    unit_decoder=change(cfg.unit_decoder, trunk=change(cfg.unit_decoder.trunk, dtype=dtype)),
  )


def prepare(
  params: Mapping[str, Any], cfg: EchoXConfig, mesh: Mesh | None, int8: bool = False
) -> tuple[dict[str, Any], EchoXConfig]:
  """Makes parameters ready for `programs.Programs`.

  An adapter that scores labels by how they are written gets a table of its own
  (`adapter.with_own_table`). On one device, projections are joined (see `llama.join_projections`).
  On a CPU, layers are taken apart and heads transposed (see `llama.separate_layers` and
  `llama.transpose_head`). On a mesh, a device receives its own part of each array alone.

  Args:
    params: groups of a model folder.
    cfg: the model.
    mesh: what to split them over; None = one device.
    int8: whether the kernels of the LLM and of the unit decoders are held as int8.

  Returns:
    The parameters and the config that fits them.

  Raises:
    ConfigError: the mesh does not divide them.
  """
  if 'adapter' in params and cfg.adapter.spelled_ctc:
    params, cfg = {**params, 'adapter': _own_table(params, cfg)}, adapter.own_table_config(cfg)
  params = {group: _cast(tree, weight_dtype(cfg, group)) for group, tree in params.items()}
  folded = lora.merged_config(cfg) if 'llm' in params and cfg.llm.lora.rank else cfg
  if mesh is None:
    return {group: _on_one_device(tree, cfg, group, int8) for group, tree in params.items()}, folded
  params = put(params, params_lib.abstract_params(cfg, params, mesh))
  if folded is not cfg:
    wanted = params_lib.abstract_params(folded, ('llm',), mesh)['llm']
    placed = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    params['llm'] = jax.jit(lambda tree: lora.merge(tree, cfg.llm.lora), out_shardings=placed)(
      params['llm']
    )
  if int8:
    params |= {own: jax.jit(quantize.quantize)(params[own]) for own in _TRUNKS if own in params}
  return params, folded


def _own_table(params: Mapping[str, Any], cfg: EchoXConfig) -> dict[str, Any]:
  """The adapter with a table of its own, in memory of the host as the other groups."""
  read = {
    'adapter': params['adapter'],
    'llm': {'embed_tokens': params['llm']['embed_tokens']},
    'unit_text_embedding': params['unit_text_embedding'],
  }
  return jax.device_get(jax.jit(adapter.with_own_table, static_argnums=1)(read, cfg))


def _on_one_device(tree: dict, cfg: EchoXConfig, group: str, int8: bool) -> dict:
  """One group, made ready by programs that are kept: hundreds of small ones take longer. A CPU has
  its layers made ready one after the other: in memory of its own, all of them would be there twice.
  """
  if group not in _TRUNKS:
    return jax.device_put(tree)
  on_cpu = jax.default_backend() == 'cpu'

  def program(function: Callable[..., dict], name: str) -> compiled.Program:
    ready = jax.jit(functools.partial(function, cfg=cfg, group=group, int8=int8, on_cpu=on_cpu))
    return compiled.Program(ready, f'{name}_{group}', compiled.folder(cfg, int8), fixed=0)

  if not on_cpu:
    return program(_ready, 'ready')(tree)
  apart, ready = llama.separate_layers(tree), program(_ready, 'ready_layer')
  trunk = apart['trunk']
  layers = {name: ready(trunk.pop(name)) for name in list(trunk) if name.startswith('layers_')}
  rest = program(_ready_head, 'ready_head')(apart)
  return {**rest, 'trunk': rest['trunk'] | layers}


def _ready(tree: dict, *, cfg: EchoXConfig, group: str, int8: bool, on_cpu: bool) -> dict:
  """The LLM or a unit decoder as it computes on one device; on a CPU, a layer of it."""
  if group == 'llm' and cfg.llm.lora.rank:
    tree = lora.merge(tree, cfg.llm.lora)
  tree = llama.join_projections(tree)
  if int8:
    tree = quantize.quantize(tree)
  return quantize.with_rows(tree) if on_cpu else tree


def _ready_head(tree: dict, *, cfg: EchoXConfig, group: str, int8: bool, on_cpu: bool) -> dict:
  """What is beside the layers, as a CPU reads it fastest."""
  tree = _ready(tree, cfg=cfg, group=group, int8=int8, on_cpu=on_cpu)
  if group == 'llm':
    tree = llama.transpose_head(tree, llama.head_embedding(tree))
    return llama.quantise_head(tree) if int8 else tree
  return generate.transpose_unit_head(tree, cfg)


def abstract(cfg: EchoXConfig, groups: tuple[str, ...], mesh: Mesh) -> tuple[dict, EchoXConfig]:
  """As `prepare`, for shapes instead of arrays."""
  cfg = lora.merged_config(cfg)
  cfg = adapter.own_table_config(cfg) if cfg.adapter.spelled_ctc else cfg
  shapes = params_lib.abstract_params(cfg, groups, mesh)

  def stored(group):
    def one(path, leaf):
      return leaf.update(dtype=weight_dtype(cfg, group) if path[-1].key in _WEIGHTS else leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, shapes[group])

  return {group: stored(group) for group in groups}, cfg


def weight_dtype(cfg: EchoXConfig, group: str) -> str:
  """Returns the dtype that computes with the weights of a parameter group."""
  parts = {'whisper': cfg.whisper, 'adapter': cfg.adapter, 'llm': cfg.llm, 'hubert': cfg.hubert}
  if group == 'vocoder':
    return cfg.vocoder.dtype
  return parts.get(group, cfg.unit_decoder.trunk).dtype


def put(params: dict, wanted: dict) -> dict:
  """Puts arrays where `wanted`, shapes with shardings, says."""
  return jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), params, wanted)


def of_state(shapes: Any, mesh: Mesh) -> Any:
  """Returns the shardings of a state: rows like a batch, key/value heads like the weights that make
  them.

  Args:
    shapes: of `conversations.Conversations` or `speaking.Speaking`.
    mesh: where it is to be.
  """

  def one(path, leaf):
    names = ['batch', *[None] * (leaf.ndim - 1)]
    if path[0].name == 'cache':
      names = [*[None] * (leaf.ndim - 4), 'batch', 'kv_heads', None, None]
    return sharding.fitted(leaf.shape, names, mesh)

  return jax.tree_util.tree_map_with_path(one, shapes)


class OnMesh:
  """As `compiled.Program`, under a mesh and its rules."""

  def __init__(self, function: Callable[..., Any], mesh: Mesh):
    self._function, self._mesh = function, mesh

  def __call__(self, *args: Any) -> Any:
    with _entered(self._mesh):
      return self._function(*args)

  def prepare(self, *args: Any) -> Any:
    """Compiles it by a run on zeros in the place of shapes; returns what it gives. Where the arrays
    are that one program gives and the next one takes, XLA alone knows.
    """
    return self(*jax.tree.map(_zeros, args))

  def lower(self, *args: Any) -> jax.stages.Lowered:
    """Returns the program, not compiled yet; arguments may be shapes with shardings."""
    with _entered(self._mesh):
      lowered: jax.stages.Lowered = self._function.lower(*args)
    return lowered


def _zeros(leaf: Any) -> Any:
  """Zeros for a shape; an array stays as it is."""
  if not isinstance(leaf, jax.ShapeDtypeStruct):
    return leaf
  if leaf.sharding is None:
    return np.zeros(leaf.shape, leaf.dtype)  # as the host hands arguments over
  return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)


@contextlib.contextmanager
def _entered(mesh: Mesh):
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    yield


def _cast(tree: Mapping[str, Any], dtype: str) -> dict[str, Any]:
  """Weights in `dtype`; the rest as it is."""

  def one(path: str, leaf: np.ndarray) -> np.ndarray:
    fits = leaf.dtype == dtype or path.rsplit('/', 1)[-1] not in _WEIGHTS
    return leaf if fits else leaf.astype(dtype)

  return trees.unflatten({path: one(path, leaf) for path, leaf in trees.flatten(tree).items()})
