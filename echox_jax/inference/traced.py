"""Keeps traced programs between runs: tracing and lowering take longer than loading compiled code.

JAX keeps compiled programs in its cache folder (`jax_compilation_cache_dir`), but it finds one only
by the program itself, which has to be traced and lowered first. So the lowered programs (StableHLO,
by `jax.export`) lie beside them, and are found by what they were made from: the source of this
package, the versions of JAX, the device, the config, and the shapes of the arguments.
"""

from collections.abc import Callable
import functools
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
from jax import export
import jaxlib

from echox_jax import storage
from echox_jax.decoding import conversations, generate, sampler, speaking
from echox_jax.models import adapter

_log = logging.getLogger(__name__)
_PACKAGE = Path(__file__).parents[1]
_CHECKSUM = hashlib.sha256().digest_size  # bytes in front of a kept program


def folder(*made_from: Any) -> Path | None:
  """Returns where programs lie that were made from these values, which `repr` tells apart; None =
  JAX has no cache folder.
  """
  cache = jax.config.jax_compilation_cache_dir
  if not cache:
    return None
  device = jax.devices()[0]
  described = (
    _source(),
    (jax.__version__, jaxlib.__version__, device.platform, device.device_kind),
    (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision),
    made_from,
  )
  return Path(cache) / 'traced' / hashlib.sha256(repr(described).encode()).hexdigest()[:32]


class Traced:
  """A jitted function that is traced in the first run alone.

  Args:
    function: jitted, for one device.
    name: of its files.
    kept: a `folder`.
    fixed: arguments in front whose shapes are those of the config: parameters, and a state.
    options: of `jax.jit`, as `function` has them.
  """

  def __init__(
    self, function: Callable[..., Any], name: str, kept: Path, fixed: int, **options: Any
  ):
    self._function, self._name, self._kept, self._fixed = function, name, kept, fixed
    self._options = options
    self._ready: dict[Any, Callable[..., Any]] = {}  # by the shapes of the other arguments

  def __call__(self, *args: Any) -> Any:
    shapes = _shapes(args[self._fixed :])
    if shapes not in self._ready:
      described = repr(_shapes(args)).encode()
      path = self._kept / f'{self._name}-{hashlib.sha256(described).hexdigest()[:16]}'
      program = _read(path) or self._trace(path, args)
      self._ready[shapes] = jax.jit(_named(program.call, self._name), **self._options)
    return self._ready[shapes](*args)

  def lower(self, *args: Any) -> jax.stages.Lowered:
    """Returns the program, not compiled yet; arguments may be shapes."""
    lowered: jax.stages.Lowered = self._function.lower(*args)
    return lowered

  def _trace(self, path: Path, args: Any) -> export.Exported:
    """Traces a program and keeps it; a folder that cannot be written to keeps none."""
    made = export.export(self._function)(*args)
    program = bytes(made.serialize())
    try:
      storage.atomic_write_bytes(path, hashlib.sha256(program).digest() + program)
    except OSError as error:
      _log.warning('the program %s is not kept: %s', self._name, error)
    return made


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
  """Gives a function the name that profiles and logs show."""

  def call(*args: Any) -> Any:
    return function(*args)

  call.__name__ = name
  return call


def _shapes(args: Any) -> tuple:
  leaves, tree = jax.tree.flatten(args)
  return (tree, *((leaf.shape, leaf.dtype) for leaf in leaves))


def _read(path: Path) -> export.Exported | None:
  """Reads a program; None = there is none, or it is damaged."""
  try:
    data = path.read_bytes()
  except OSError:
    return None
  checksum, program = data[:_CHECKSUM], data[_CHECKSUM:]
  if hashlib.sha256(program).digest() != checksum:
    return None
  return export.deserialize(bytearray(program))


@functools.cache
def _source() -> str:
  """A fingerprint of the Python files of this package."""
  found = hashlib.sha256()
  for path in sorted(_PACKAGE.rglob('*.py')):
    found.update(path.read_bytes())
  return found.hexdigest()


def _static_to_bytes(fields: tuple) -> bytes:
  return json.dumps(fields).encode()


def _static_from_bytes(data: bytes) -> tuple:
  return tuple(json.loads(data))


# What programs take and give, so that `jax.export` can write it down.
for _node in (adapter.EmbeddedSpeech, sampler.Sampling, speaking.Spelling):
  export.register_namedtuple_serialization(_node, serialized_name=_node.__qualname__)
for _node in (
  conversations.Conversations,
  conversations.Progress,
  speaking.Speaking,
  speaking.Spoken,
  generate.UnitHead,
):
  export.register_pytree_node_serialization(
    _node,
    serialized_name=_node.__qualname__,
    serialize_auxdata=_static_to_bytes,
    deserialize_auxdata=_static_from_bytes,
  )
