"""Programs for one device, compiled ahead of their first run and kept between starts.

JAX keeps compiled programs in its cache folder, but it finds one only by the program itself, which
has to be traced and lowered first, and that takes longer than loading what was compiled. So the
lowered programs (StableHLO, by `jax.export`) are `kept` beside them, and are found by what they
were made from: the device, the config, and the shapes of the arguments.
"""

from collections.abc import Callable
from concurrent import futures
import hashlib
import json
from pathlib import Path
import threading
from typing import Any

import jax
from jax import export

from echox_jax import kept
from echox_jax.decoding import conversations, ctc_beam, generate, sampler, speaking
from echox_jax.inference import hearing
from echox_jax.models import adapter


def folder(*made_from: Any) -> Path | None:
  """Returns where programs lie that were made from these values, which `repr` tells apart; None =
  JAX has no cache folder, or its device is no CPU (`jax.export` refuses what GPU kernels call).
  """
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return None
  of_jax = (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision)
  return kept.place('traced', device.platform, device.device_kind, of_jax, made_from)


class Program:
  """A jitted function for one device. Any thread may have it compiled for some shapes of its
  arguments, before its first run for them; who runs it meanwhile waits.

  Args:
    function: jitted.
    name: of its files.
    where: a `folder`; None = nothing is kept.
    fixed: arguments in front whose shapes are those of the config: parameters, and a state.
    options: of `jax.jit`, as `function` has them.
  """

  def __init__(
    self, function: Callable[..., Any], name: str, where: Path | None, fixed: int, **options: Any
  ):
    self._function, self._name, self._folder, self._fixed = function, name, where, fixed
    self._options = options
    self._lock = threading.Lock()
    # by the shapes of the other arguments
    self._compiled: dict[Any, futures.Future[jax.stages.Compiled]] = {}

  def __call__(self, *args: Any) -> Any:
    return self._for(args)(*args)

  def prepare(self, *args: Any) -> Any:
    """Compiles it for arguments such as these, arrays or shapes, and runs nothing; returns the
    shapes of what it gives.
    """

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    return jax.tree.map(shape, self._for(args).out_info)

  def is_ready(self, *args: Any) -> bool:
    """Whether it is compiled for arguments such as these, arrays or shapes."""
    with self._lock:
      found = self._compiled.get(_shapes(args[self._fixed :]))
    return found is not None and found.done()

  def lower(self, *args: Any) -> jax.stages.Lowered:
    """Returns the program, not compiled yet; arguments may be shapes."""
    lowered: jax.stages.Lowered = self._function.lower(*args)
    return lowered

  def _for(self, args: Any) -> jax.stages.Compiled:
    shapes = _shapes(args[self._fixed :])
    with self._lock:
      found = self._compiled.get(shapes)
      if found is None:
        mine = self._compiled[shapes] = futures.Future()
    if found is not None:
      return found.result()
    try:
      mine.set_result(self._compile(args))
    except BaseException as error:
      with self._lock:
        del self._compiled[shapes]
      mine.set_exception(error)
    return mine.result()

  def _compile(self, args: Any) -> jax.stages.Compiled:
    if self._folder is None:
      return self.lower(*args).compile()
    described = repr(_shapes(args)).encode()
    path = self._folder / f'{self._name}-{hashlib.sha256(described).hexdigest()[:16]}'
    program = _read(path) or self._trace(path, args)
    call: Any = jax.jit(_named(program.call, self._name), **self._options)
    return call.lower(*args).compile()

  def _trace(self, path: Path, args: Any) -> export.Exported:
    """Traces a program and keeps it."""
    made = export.export(self._function)(*args)
    kept.write(path, bytes(made.serialize()))
    return made


def is_ready(program: Callable[..., Any], *args: Any) -> bool:
  """Whether a program can run at once; of one on a mesh nobody knows, and it counts as ready."""
  return not isinstance(program, Program) or program.is_ready(*args)


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
  program = kept.read(path)
  return None if program is None else export.deserialize(bytearray(program))


def _static_to_bytes(fields: tuple) -> bytes:
  return json.dumps(fields).encode()


def _static_from_bytes(data: bytes) -> tuple:
  return tuple(json.loads(data))


# What programs take and give, so that `jax.export` can write it down.
for _node in (
  adapter.EmbeddedSpeech,
  conversations.Written,
  ctc_beam.Hypotheses,
  generate.UnitWords,
  hearing.Found,
  sampler.Sampling,
  speaking.Spelling,
):
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
