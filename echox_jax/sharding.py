"""One table from logical axis names to mesh axes, the mesh, and shardings made from both."""

from flax import linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from echox_jax import errors

AXES = ('data', 'fsdp', 'tensor', 'sequence')

# Every logical name used by a parameter or an activation stands here once; None = replicated.
RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    ('batch', ('data', 'fsdp')),
    ('length', 'sequence'),
    ('act_embed', None),
    ('embed', 'fsdp'),
    ('mlp', 'tensor'),
    ('heads', 'tensor'),
    ('kv_heads', 'tensor'),
    ('vocab', 'tensor'),
    ('unit_vocab', 'tensor'),
    ('layers', None),
    ('lora_rank', None),
    ('mel', None),
    ('positions', None),
    ('codes', None),
    ('norm', None),
    ('conv_kernel', None),
    ('conv_in', None),
    ('conv_out', 'tensor'),
)


def make_mesh(sizes: dict[str, int], devices=None) -> Mesh:
  """The mesh with the given axis sizes; one size may be -1.

  Raises:
    ConfigError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = [sizes.get(axis, 1) for axis in AXES]
  if shape.count(-1) > 1:
    raise errors.ConfigError(f'mesh {sizes} leaves more than one size open: give all but one axis a size.')
  known = int(np.prod([s for s in shape if s != -1]))
  if -1 in shape and len(devices) % known == 0:
    shape[shape.index(-1)] = len(devices) // known
  if int(np.prod(shape)) != len(devices):
    raise errors.ConfigError(
        f'mesh {dict(zip(AXES, shape))} does not multiply to the {len(devices)} devices at hand: change a size, or set one to -1.')
  return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def param_shardings(boxed, mesh: Mesh):
  """Tree of shardings for a tree of parameters boxed with logical names (or their shapes).

  Raises:
    ConfigError: a name without a rule, or a size that its mesh axis does not divide.
  """
  known = {name for name, _ in RULES}

  def check(path, leaf):
    for name in leaf.names:
      if name is not None and name not in known:
        raise errors.ConfigError(f'parameter {jax.tree_util.keystr(path)} has axis {name!r}, for which there is no sharding rule: add one.')

  jax.tree_util.tree_map_with_path(check, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
  specs = nn.logical_to_mesh(nn.get_partition_spec(boxed), RULES)
  shapes = unbox(boxed)

  def sharding(path, spec, leaf):
    for size, axis in zip(leaf.shape, spec):
      parts = int(np.prod([mesh.shape[a] for a in ((axis,) if isinstance(axis, str) else axis or ())]))
      if size % parts:
        raise errors.ConfigError(
            f'parameter {jax.tree_util.keystr(path)} of shape {leaf.shape} is not divisible by mesh axis {axis!r} of size {parts}: change the mesh.')
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(sharding, specs, shapes, is_leaf=lambda x: isinstance(x, PartitionSpec))


def unbox(boxed):
  """The bare arrays or shapes; unlike `nn.meta.unbox` it adds no sharding constraints, so that shapes may pass under a mesh."""
  is_box = lambda x: isinstance(x, nn.meta.AxisMetadata)
  return jax.tree.map(lambda x: x.value if is_box(x) else x, boxed, is_leaf=is_box)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Batches are split over rows."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
