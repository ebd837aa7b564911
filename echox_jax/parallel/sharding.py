"""One table from logical axis names to mesh axes, the mesh, and shardings made from both.

Arrays name their axes; the table says over which mesh axes each name is split. `data` splits the
batch (its outermost part may be the slices of a multi-slice job, `dcn_data`), `fsdp` splits the
batch and the parameters, `tensor` heads and widths of feed-forward layers, `sequence` positions.
The compiler puts the collectives in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from echox_jax import errors

AXES = ('data', 'fsdp', 'tensor', 'sequence')

# Every logical name used by a parameter or an activation stands here once; None = replicated.
RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
  # Activations.
  ('batch', ('data', 'fsdp')),
  ('length', 'sequence'),
  # keys and values: every position sees all of them, so `sequence` gathers them
  ('key_length', None),
  ('act_embed', None),
  ('act_vocab', 'tensor'),  # logits
  # Logits in chunks, where the table is larger than the states: the devices of a row group share
  # its rows and split the vocabulary (`chunked`).
  ('head_batch', 'data'),
  ('head_vocab', ('fsdp', 'tensor')),
  # Parameters; heads and mlp are also the names of activations inside a layer, which are split
  # like their weights.
  ('embed', 'fsdp'),
  ('mlp', 'tensor'),
  ('heads', 'tensor'),
  ('kv_heads', 'tensor'),
  # Tables [vocabulary, width]. Real vocabularies are odd numbers (Llama 3 with its AUDIO token:
  # 128,257), which no mesh divides; padding rows would change what checkpoints hold. So a table
  # rests split along its width, over both axes. Where logits are made in chunks it is turned, by
  # an all-to-all of the parts, to be split along its rows: activations may be split unevenly.
  ('vocab', None),
  ('unit_vocab', None),
  ('table_embed', ('fsdp', 'tensor')),
  # Convolutions (see WHOLE_IF_UNEVEN).
  ('conv_kernel', None),
  ('conv_in', 'fsdp'),
  ('conv_out', 'tensor'),
  ('layers', None),
  ('lora_rank', None),
  ('lora_out', ('tensor', 'fsdp')),  # the other axis of B, which has no `embed` to be split by
  ('mel', None),
  ('positions', None),
  ('codes', None),
  ('norm', None),
)

# Parameter axes that stay whole where their mesh axis does not divide them; for all others that is
# an error. Convolutions begin and end with odd numbers of channels (1 sample, 80 mel bands) and are
# small, as LoRA is.
WHOLE_IF_UNEVEN = ('conv_in', 'conv_out', 'lora_out')

_RULES = {name: (axes,) if isinstance(axes, str) else axes or () for name, axes in RULES}


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The mesh with the given axis sizes, 1 where not given; one size may be -1.

  Args:
    sizes: of the axes `AXES`, and `dcn_data`: slices of a multi-slice job, the outermost part of
      the axis `data`.
    devices: all by default. Where they do not tell their slice, consecutive ones are taken for a
      slice.

  Raises:
    ConfigError: the sizes do not multiply to the number of devices, or `dcn_data` is not the number
      of slices.
  """
  devices = jax.devices() if devices is None else devices
  names = ('dcn_data', *AXES)
  shape = [sizes.get(name, 1) for name in names]
  shown = ', '.join(f'{name}={size}' for name, size in zip(names, shape))
  if shape.count(-1) > 1:
    raise errors.ConfigError(
      f'mesh {shown} leaves more than one size open: give all but one axis a size.'
    )
  if any(size < 1 and size != -1 for size in shape):
    raise errors.ConfigError(
      f'mesh {shown} has a size that is not a number of devices: use 1 or '
      'more, or -1 for what is left.'
    )
  known = int(np.prod([size for size in shape if size != -1]))
  if -1 in shape and len(devices) % known == 0:
    shape[shape.index(-1)] = len(devices) // known
  if int(np.prod(shape)) != len(devices):
    raise errors.ConfigError(
      f'mesh {shown} does not multiply to the {len(devices)} devices at hand: change a size, or '
      'set one to -1.'
    )
  return Mesh(arrange(devices, *shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(devices: Sequence[jax.Device], slices: int, *shape: int) -> np.ndarray:
  """The devices as an array of `shape`, its first axis `slices` times as long, so that neighbours
  in it are near each other.

  Raises:
    ConfigError: the devices form another number of slices.
  """
  found = len({getattr(device, 'slice_index', 0) for device in devices})
  if found > 1 and found != slices:
    raise errors.ConfigError(
      f'the devices form {found} slices, but mesh.dcn_data is {slices}: set it to {found}.'
    )
  if found > 1:
    return mesh_utils.create_hybrid_device_mesh(
      shape, (slices,) + (1,) * (len(shape) - 1), devices, allow_split_physical_axes=True
    )
  if slices > 1:
    return np.asarray(devices).reshape(slices * shape[0], *shape[1:])
  return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def spec(names: Sequence[str | None], what: str = 'an array') -> PartitionSpec:
  """How an array with these axis names is split; None = an axis that is not.

  Args:
    names: one for each axis.
    what: the array, for messages.

  Raises:
    ConfigError: a name without a rule, or two names that are split over one mesh axis.
  """
  return PartitionSpec(*(axes or None for axes in _mesh_axes(names, what)))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Asks the compiler to split the activation `x` by the rules; without a mesh, or with one device,
  only checks the names.

  An axis that is shorter than its part of the mesh (one token, one row) is left to the compiler;
  longer ones may be uneven.

  Raises:
    ConfigError: as `spec`.
  """
  if len(names) != x.ndim:
    raise ValueError(f'an activation of shape {x.shape} has {len(names)} axis names {names}.')
  wanted, mesh = _mesh_axes(names, 'an activation'), current_mesh()
  if mesh is None:
    return x
  fits = (
    axes or None if size >= _parts(mesh, axes) else PartitionSpec.UNCONSTRAINED
    for size, axes in zip(x.shape, wanted)
  )
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*fits))


def current_mesh() -> jax.sharding.AbstractMesh | None:
  """The mesh that the compiler splits a computation over; None without one, on one device, and
  inside of `by_rows`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def axis_size(axis: str) -> int:
  """Parts that a mesh axis makes; 1 without a mesh."""
  mesh = current_mesh()
  return 1 if mesh is None else mesh.shape[axis]


def parts(name: str, size: int) -> int:
  """Into how many parts the mesh splits an activation's axis called `name`; 1 where they would not
  be equal.
  """
  mesh = current_mesh()
  found = 1 if mesh is None else _parts(mesh, _RULES[name])
  return found if size % found == 0 else 1


def is_even(shape: Sequence[int], names: Sequence[str | None]) -> bool:
  """Whether the mesh splits an activation of this shape into equal parts; yes without a mesh."""
  mesh = current_mesh()
  return mesh is None or not any(
    size % _parts(mesh, axes) for size, axes in zip(shape, _mesh_axes(names, 'an activation'))
  )


def by_rows(
  function: Callable[..., Any], rows: Any, *whole: Any, differentiable: bool = True
) -> Any:
  """`function(rows, *whole)`, computed by each device on its own rows, with no exchange between
  devices inside.

  For what the compiler does not split by itself: Fourier transforms and grouped convolutions (it
  gathers all rows on every device, and gives some gradients of grouped convolutions wrong), gathers
  by computed row numbers, and loops that every device is to end by itself.

  Args:
    function: takes any number of rows; what it knows of other rows is only what one device holds.
    rows: tree of arrays whose first axis is split as a batch is; other axes are whole.
    *whole: trees of arrays that every device needs whole; they are gathered once, before.
    differentiable: False where no gradient is asked for, which lets loops start from constants.

  Returns:
    the tree of `function`, first axes joined. Where the mesh does not divide the rows there is one
    call, on all of them.
  """
  mesh = current_mesh()
  if mesh is None or any(x.shape[0] % row_groups(mesh) for x in jax.tree.leaves(rows)):
    return function(rows, *whole)
  split = spec(('batch',))
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(split, *(PartitionSpec() for _ in whole)),
    out_specs=split,
    check_vma=differentiable,
  )(rows, *whole)


def param_shardings(boxed, mesh: Mesh):
  """Tree of shardings for a tree of parameters boxed with logical names (or their shapes).

  Raises:
    ConfigError: as `spec`, or a size that its mesh axes do not divide.
  """

  def sharding(path, leaf):
    what, shape = f'parameter {"/".join(key.key for key in path)}', leaf.value.shape
    axes = _mesh_axes(leaf.names, what)
    for i, (size, name) in enumerate(zip(shape, leaf.names, strict=True)):
      if size % _parts(mesh, axes[i]):
        if name not in WHOLE_IF_UNEVEN:
          raise errors.ConfigError(
            f'{what} of shape {shape} has {size} {name!r}, which mesh axis {" x ".join(axes[i])} '
            f'of size {_parts(mesh, axes[i])} '
            'does not divide: change the mesh.'
          )
        axes[i] = ()
    return NamedSharding(mesh, PartitionSpec(*(some or None for some in axes)))

  return jax.tree_util.tree_map_with_path(
    sharding, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def unbox(boxed):
  """The bare arrays or shapes; unlike `nn.meta.unbox` it adds no sharding constraints, so that
  shapes may pass under a mesh.
  """

  def is_box(x):
    return isinstance(x, nn.meta.AxisMetadata)

  return jax.tree.map(lambda x: x.value if is_box(x) else x, boxed, is_leaf=is_box)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Batches are split over rows."""
  return NamedSharding(mesh, spec(('batch',)))


def row_groups(mesh: Mesh) -> int:
  """The number of devices (or groups of devices) that share the rows of a batch."""
  return _parts(mesh, _RULES['batch'])


def check_rows(rows: int, mesh: Mesh, what: str) -> None:
  """Raises ConfigError where the mesh does not divide a batch of `rows` rows, which `what`
  names.
  """
  groups = row_groups(mesh)
  if rows % groups:
    raise errors.ConfigError(
      f'{what} {rows} is not a multiple of the {groups} parts that mesh axes '
      f'data={mesh.shape["data"]} and fsdp={mesh.shape["fsdp"]} '
      'make: change the batch or the mesh.'
    )


def _parts(mesh, axes: Sequence[str]) -> int:
  """Into how many parts the mesh axes split."""
  return int(np.prod([mesh.shape[axis] for axis in axes]))


def _mesh_axes(names: Sequence[str | None], what: str) -> list[tuple[str, ...]]:
  """The mesh axes of each named axis; errors as `spec`."""
  for name in names:
    if name is not None and name not in _RULES:
      raise errors.ConfigError(
        f'{what} has axis {name!r}, for which there is no sharding rule: '
        f'use one of {", ".join(_RULES)}, or add a rule.'
      )
  axes = [() if name is None else _RULES[name] for name in names]
  used = [axis for some in axes for axis in some]
  twice = next((axis for axis in used if used.count(axis) > 1), None)
  if twice is not None:
    both = ' and '.join(repr(name) for name, some in zip(names, axes) if twice in some)
    raise errors.ConfigError(
      f'{what} has axes {both}, which the sharding rules both split over '
      f'mesh axis {twice!r}: change a name or a rule.'
    )
  return axes
