"""The table from logical axis names to mesh axes, the mesh, and the shardings made from both.

Arrays name their axes; the table maps each name to the mesh axes that split it. `data` splits the
batch (its outermost part may be the slices of a multi-slice job, `dcn_data`). `fsdp` splits the
batch and the parameters, `tensor` splits heads and feed-forward widths, `sequence` splits
positions. The compiler inserts the collectives.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from echox_jax import errors

AXES = ('data', 'fsdp', 'tensor', 'sequence')

# Every logical axis name of a parameter or an activation is listed here once; None = replicated.
RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
  # Activations.
  ('batch', ('data', 'fsdp')),
  ('length', 'sequence'),
  # keys and values: every position needs all of them, so they are gathered over `sequence`
  ('key_length', None),
  ('act_embed', None),
  ('act_vocab', 'tensor'),  # logits
  # Chunked logits if the table is larger than the states: the devices of a row group share its rows
  # and split the vocabulary (`models.chunked_head`).
  ('head_batch', 'data'),
  ('head_vocab', ('fsdp', 'tensor')),
  # Parameters. Activations inside a layer also use `heads` and `mlp`, so they are split like their
  # weights.
  ('embed', 'fsdp'),
  ('mlp', 'tensor'),
  ('heads', 'tensor'),
  ('kv_heads', 'tensor'),
  # Tables [vocabulary, width]. Real vocabulary sizes are odd (Llama 3 with its AUDIO token:
  # 128,257), so no mesh divides them, and padding rows would change the checkpoints. So a table is
  # stored split along its width, over both axes. For chunked logits an all-to-all reshards it along
  # its rows, because activations may be split unevenly.
  ('vocab', None),
  ('unit_vocab', None),
  ('table_embed', ('fsdp', 'tensor')),
  # Convolutions (see WHOLE_IF_UNEVEN).
  ('conv_kernel', None),
  ('conv_in', 'fsdp'),
  ('conv_out', 'tensor'),
  ('layers', None),
  ('lora_rank', None),
  ('lora_out', ('tensor', 'fsdp')),  # output axis of B, because B has no `embed` axis to split
  ('mel', None),
  ('positions', None),
  ('codes', None),
  ('norm', None),
)

# Parameter axes that stay whole if their mesh axis does not divide them; for other axes this is an
# error. Convolutions begin and end with odd channel counts (1 sample, 80 mel bands); they and LoRA
# are small.
WHOLE_IF_UNEVEN = ('conv_in', 'conv_out', 'lora_out')

_RULES = {name: (axes,) if isinstance(axes, str) else axes or () for name, axes in RULES}


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Makes a mesh with the given axis sizes, by default 1; one size may be -1.

  Args:
    sizes: sizes of the axes `AXES`, and of `dcn_data`: slices of a multi-slice job, the outermost
      part of the axis `data`.
    devices: default: all. If they have no slice index, consecutive devices form a slice.

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
      'more, or -1 for all remaining devices.'
    )
  known = int(np.prod([size for size in shape if size != -1]))
  if -1 in shape and len(devices) % known == 0:
    shape[shape.index(-1)] = len(devices) // known
  if int(np.prod(shape)) != len(devices):
    raise errors.ConfigError(
      f'mesh {shown} does not multiply to the {len(devices)} devices available: change a size, or '
      'set one to -1.'
    )
  return Mesh(arrange(devices, *shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(devices: Sequence[jax.Device], slices: int, *shape: int) -> np.ndarray:
  """Arranges the devices as an array of `shape` with the first axis `slices` times as long, so that
  array neighbours are physically close.

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
  """Returns the partition spec of an array with these axis names; None = an unsplit axis.

  Args:
    names: one per axis.
    what: the array, for messages.

  Raises:
    ConfigError: a name has no rule, or two names are split over the same mesh axis.
  """
  return PartitionSpec(*(axes or None for axes in _mesh_axes(names, what)))


def fitted(shape: Sequence[int], names: Sequence[str | None], mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array by the rules; an axis that the mesh does not divide stays
  whole.
  """
  axes = zip(shape, _mesh_axes(names, 'an array'))
  return NamedSharding(
    mesh,
    PartitionSpec(*(own or None if size % _parts(mesh, own) == 0 else None for size, own in axes)),
  )


def take_row(held: jax.Array, row: jax.Array, axis: int = 0) -> jax.Array:
  """Returns row `row` of an axis that a mesh may split, with that axis of length 1; no other row is
  sent.
  """
  if current_mesh() is None:
    return jax.lax.dynamic_slice_in_dim(held, row, 1, axis)
  return jnp.sum(jnp.where(_at(held, row, axis), held, 0), axis, held.dtype, keepdims=True)


def put_row(held: jax.Array, one: jax.Array, row: jax.Array, axis: int = 0) -> jax.Array:
  """Puts `one`, with `axis` of length 1, in the place of row `row`; nothing is sent but `one`."""
  if current_mesh() is None:
    return jax.lax.dynamic_update_slice_in_dim(held, one, row, axis)
  return jnp.where(_at(held, row, axis), one, held)


def _at(held: jax.Array, row: jax.Array, axis: int) -> jax.Array:
  """True at one row."""
  return jax.lax.broadcasted_iota(jnp.int32, held.shape, axis) == row


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Constrains the sharding of the activation `x` by the rules; without a mesh, or with one device,
  it only checks the names.

  An axis shorter than its part of the mesh (one token, one row) is left to the compiler; longer
  axes may be split unevenly.

  Raises:
    ConfigError: see `spec`.
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
  """Returns the mesh that the compiler splits a computation over; None without a mesh, on one
  device, and inside `by_rows`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def axis_size(axis: str) -> int:
  """Returns the size of a mesh axis; 1 without a mesh."""
  mesh = current_mesh()
  return 1 if mesh is None else mesh.shape[axis]


def parts(name: str, size: int) -> int:
  """Returns the number of parts that the mesh splits the activation axis `name` into; 1 if they
  would not be equal.
  """
  mesh = current_mesh()
  found = 1 if mesh is None else _parts(mesh, _RULES[name])
  return found if size % found == 0 else 1


def is_even(shape: Sequence[int], names: Sequence[str | None]) -> bool:
  """Returns whether the mesh splits an activation of this shape evenly; True without a mesh."""
  mesh = current_mesh()
  return mesh is None or not any(
    size % _parts(mesh, axes) for size, axes in zip(shape, _mesh_axes(names, 'an activation'))
  )


def by_rows(
  function: Callable[..., Any], rows: Any, *whole: Any, differentiable: bool = True
) -> Any:
  """Computes `function(rows, *whole)` on each device's own rows, without communication inside.

  Use it for computations that the compiler does not split by itself: Fourier transforms and grouped
  convolutions (it gathers all rows on every device, and gets some gradients of grouped convolutions
  wrong), gathers by computed row indices, and loops that each device should end independently.

  Args:
    function: takes any number of rows; it sees only the rows of one device.
    rows: tree of arrays whose first axis is split like a batch; other axes are whole.
    *whole: trees of arrays that every device needs whole; they are gathered once, before the call.
    differentiable: False if no gradient is needed, which lets loops start from constants.

  Returns:
    The result tree of `function` with first axes concatenated. If the mesh does not divide the
    rows, there is a single call on all rows.
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
  """Returns the tree of shardings for parameters (or shapes) boxed with logical names.

  Raises:
    ConfigError: see `spec`; or mesh axes do not divide a size.
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
  """Returns the bare arrays or shapes. Unlike `nn.meta.unbox` it adds no sharding constraints, so
  it accepts shapes under a mesh.
  """

  def is_box(x):
    return isinstance(x, nn.meta.AxisMetadata)

  return jax.tree.map(lambda x: x.value if is_box(x) else x, boxed, is_leaf=is_box)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of batches, which are split by rows."""
  return NamedSharding(mesh, spec(('batch',)))


def row_groups(mesh: Mesh) -> int:
  """Returns the number of devices (or groups of devices) that divide the rows of a batch."""
  return _parts(mesh, _RULES['batch'])


def check_rows(rows: int, mesh: Mesh, what: str) -> None:
  """Raises ConfigError if the mesh does not divide a batch of `rows` rows; `what` names the
  batch.
  """
  groups = row_groups(mesh)
  if rows % groups:
    raise errors.ConfigError(
      f'{what} {rows} is not a multiple of the {groups} parts that mesh axes '
      f'data={mesh.shape["data"]} and fsdp={mesh.shape["fsdp"]} '
      'make: change the batch or the mesh.'
    )


def _parts(mesh, axes: Sequence[str]) -> int:
  """Returns the number of parts that the mesh axes make."""
  return int(np.prod([mesh.shape[axis] for axis in axes]))


def _mesh_axes(names: Sequence[str | None], what: str) -> list[tuple[str, ...]]:
  """Returns the mesh axes of each named axis; raises like `spec`."""
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
