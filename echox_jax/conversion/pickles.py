"""Reads pickles without running the code that they name.

A pickle is a program: it names functions and classes and has them called. Here its steps are
processed one by one, as `pickletools.genops` lists them. Names are only looked up in a table of
harmless stand-ins of ours. Nothing is ever imported, and a name outside the table is refused.

A `pickle.Unpickler` with a `find_class` is not enough. It hashes every key (125 bytes of nested
tuples keep it busy forever), allocates room for the largest memo index (9 bytes take 4 GiB) and
sets attributes of anything on its stack. None of this can be overridden. Lengths in a pickle are
not trusted either: reading returns what the file has, and a step with less than it declares is
refused.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import os
import pickle
import pickletools
import re
from typing import Any, BinaryIO

import numpy as np

from echox_jax import errors

# Errors that a damaged pickle can cause in the reader.
_FAULT = (
  ArithmeticError,
  AttributeError,
  EOFError,
  LookupError,
  MemoryError,
  TypeError,
  ValueError,
)
# Names as protocols 0 to 2 write them for Python 2.
_PYTHON_2 = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}
_PYTHON_2_BUILTINS = {'long': 'int', 'unicode': 'str'}
_CODE = re.compile(r'[?biufcSU]\d{0,9}')  # codes of numpy dtypes of plain values
_SCALARS = (str, bytes, int, float, complex, bool, type(None), np.generic)


@dataclasses.dataclass(frozen=True)
class Global:
  """A name in a pickle; it is not looked up anywhere."""

  name: str


@dataclasses.dataclass(eq=False)
class Record:
  """Stands for an object of a foreign class and does nothing; elements added to it are dropped.

  Attributes:
    name: name of its class.
    args: arguments of its constructor.
    state: its attributes, usually a dict.
  """

  name: str
  args: tuple = ()
  state: Any = None


def check_sizes(values: Any) -> tuple[int, ...]:
  """Checks a tuple of sizes from a pickle: plain integers, none negative, and no more than numpy
  has axes.
  """
  if (
    type(values) not in (tuple, list)
    or len(values) > 32
    or any(type(n) is not int or n < 0 for n in values)
  ):
    raise pickle.UnpicklingError('sizes that are not integers from 0')
  return tuple(values)


def dtype_of(value: Any) -> np.dtype:
  """The numpy dtype for a pickled one; its byte order is in its state."""
  if not isinstance(value, Record) or value.name != 'numpy.dtype':
    raise pickle.UnpicklingError(f'a dtype that is {type(value).__name__}')
  order = value.state[1] if value.state else '='
  if order not in ('<', '>', '|', '='):
    raise pickle.UnpicklingError('a dtype of no byte order')
  return np.dtype(value.args[0]).newbyteorder(order)


def _dtype(code: Any, *_: Any) -> Record:
  """Stands for `numpy.dtype`; only plain numbers, bytes and text."""
  shown = code if type(code) is str else f'of {type(code).__name__}'
  if shown is not code or not _CODE.fullmatch(code):
    raise pickle.UnpicklingError(f'a dtype {shown:.20}')
  return Record('numpy.dtype', (code,))


def _bytes(text: Any, encoding: str = 'latin1') -> bytes:
  """Stands for `_codecs.encode`, with which old protocols write bytes."""
  if isinstance(text, bytes):
    return text
  if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
    raise pickle.UnpicklingError('bytes in another encoding than latin1')
  return text.encode('latin1')


def _extended(target: Any, values: Sequence[Any]) -> Any:
  if type(target) is list:
    target.extend(values)
  elif not isinstance(target, Record):
    raise pickle.UnpicklingError(f'elements for a {type(target).__name__}')
  return target


def _filled(target: Any, pairs: Iterable[tuple[Any, Any]]) -> Any:
  if isinstance(target, Record):
    return target
  if type(target) is not dict:
    raise pickle.UnpicklingError(f'keys for a {type(target).__name__}')
  for key, value in pairs:
    # no deeper: hashing nested tuples may never end
    parts = key if type(key) is tuple else (key,)
    if not all(isinstance(part, _SCALARS) for part in parts):
      raise pickle.UnpicklingError(f'a {type(key).__name__} as key')
    target[key] = value
  return target


def _pairs(values: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
  return zip(values[::2], values[1::2], strict=True)


def _scalar(dtype: Any, data: Any) -> np.generic:
  return np.frombuffer(_bytes(data), dtype_of(dtype), count=1)[0]


def _dict(pairs: Iterable[tuple[Any, Any]] = ()) -> dict:
  return _filled({}, pairs)


def _set(values: Any = None) -> list:
  return values if type(values) is list else []  # a list, so that its elements need not be hashed


# Name -> the function that is called instead.
PLAIN: Mapping[str, Callable[..., Any]] = {
  'collections.OrderedDict': _dict,
  'collections.defaultdict': lambda *_: {},
  'builtins.dict': _dict,
  'builtins.set': _set,
  'builtins.frozenset': _set,
  '_codecs.encode': _bytes,
  'copyreg._reconstructor': lambda cls, *_: Record(cls.name),  # any object of protocols 0 and 1
  'numpy.dtype': _dtype,
  'numpy.core.multiarray.scalar': _scalar,
  'numpy._core.multiarray.scalar': _scalar,
  # arrays inside the pickle itself are not needed here
  'numpy.ndarray': lambda *_: Record('numpy.ndarray'),
  'numpy.core.multiarray._reconstruct': lambda *_: Record('numpy.ndarray'),
  'numpy._core.multiarray._reconstruct': lambda *_: Record('numpy.ndarray'),
}


class SafeUnpickler:
  """Reads one pickle from a stream.

  Args:
    stream: positioned at the start of the pickle; left right after its end.
    where: the file, for messages.
    makers: name -> our function that is called instead.
    records: names that become `Record`s; a name that ends in `.` stands for all names under it.
  """

  def __init__(
    self,
    stream: BinaryIO,
    where: os.PathLike[str] | str,
    makers: Mapping[str, Callable[..., Any]],
    records: Sequence[str] = (),
  ):
    self.stream, self.where = stream, where
    self._makers, self._records = makers, frozenset(records)
    self._prefixes = tuple(name for name in records if name.endswith('.'))
    self._stack: list[Any] = []
    self._marks: list[int] = []  # earlier lengths of the stack
    self._memo: dict[int, Any] = {}

  def load(self) -> Any:
    """Returns the object.

    Raises:
      CheckpointError: a name outside the tables, or a damaged pickle.
    """
    taken: list[Any] = []
    try:
      for step, value, _ in pickletools.genops(self.stream):
        if step.name == 'PROTO' and value > pickle.HIGHEST_PROTOCOL:
          raise pickle.UnpicklingError(f'protocol {value}')
        if step.name == 'MARK':
          self._marks.append(len(self._stack))
        elif step.name in ('PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
          self._memo[len(self._memo) if value is None else value] = self._stack[-1]
        else:
          taken = self._take([kind.name for kind in step.stack_before])
          if step.stack_after:  # two after DUP
            self._stack += [self._made(step.name, value, taken)] * len(step.stack_after)
      return taken[0]
    except (pickle.UnpicklingError, *_FAULT) as error:
      reason = f' ({error})' if isinstance(error, pickle.UnpicklingError) else ''
      raise errors.CheckpointError(
        f'{self.where} is truncated, damaged or of another kind{reason}: get the file again, or '
        'one with plain tensors.'
      ) from error

  def persistent_load(self, pid: Any) -> Any:
    """The object of a persistent id; here there are none."""
    raise pickle.UnpicklingError('a persistent id')

  def build(self, target: Any, state: Any) -> Any:
    """Gives `target` its state; returns it or its replacement."""
    if isinstance(target, Record):
      target.state = state
    elif type(target) is not dict:  # an OrderedDict's attributes are of no use
      raise pickle.UnpicklingError(f'a state for a {type(target).__name__}')
    return target

  def _refused(self, name: str) -> errors.CheckpointError:
    return errors.CheckpointError(
      f'{self.where} asks for {name!r}, which is not part of plain tensors and is never run: '
      'give a file without it.'
    )

  def _find(self, module: Any, name: Any) -> Global:
    if type(module) is not str or type(name) is not str:
      raise pickle.UnpicklingError('a name that is not text')
    if module == '__builtin__':
      name = _PYTHON_2_BUILTINS.get(name, name)
    full = f'{_PYTHON_2.get(module, module)}.{name}'
    if full in self._makers or full in self._records or full.startswith(self._prefixes):
      return Global(full)
    raise self._refused(full)

  def _make(self, cls: Any, args: Any) -> Any:
    """Calls the stand-in of `cls`, or records the call."""
    if not isinstance(cls, Global):
      raise pickle.UnpicklingError(f'a call of a {type(cls).__name__}')
    if type(args) is not tuple:
      raise pickle.UnpicklingError(f'a {type(args).__name__} for arguments')
    maker = self._makers.get(cls.name)
    return Record(cls.name, args) if maker is None else maker(*args)

  def _take(self, kinds: Sequence[str]) -> list[Any]:
    """Takes the operands of a step off the stack; `mark` stands for all since the last mark."""
    if 'mark' in kinds:
      start = self._marks.pop() - kinds.index('mark')
    else:
      start = len(self._stack) - len(kinds)
    if start < (self._marks[-1] if self._marks else 0):
      raise pickle.UnpicklingError('a step with nothing to work on')
    taken = self._stack[start:]
    del self._stack[start:]
    return taken

  def _made(self, step: str, value: Any, taken: list[Any]) -> Any:
    """What a step puts on the stack, given its value and its operands."""
    match step:
      case 'NONE':
        return None
      case 'NEWTRUE' | 'NEWFALSE':
        return step == 'NEWTRUE'
      case 'EMPTY_TUPLE' | 'TUPLE' | 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        return tuple(taken)
      case 'EMPTY_LIST' | 'LIST' | 'EMPTY_SET' | 'FROZENSET':
        return taken
      case 'EMPTY_DICT' | 'DICT':
        return _dict(_pairs(taken))
      case 'APPEND' | 'APPENDS' | 'ADDITEMS':
        return _extended(taken[0], taken[1:])
      case 'SETITEM' | 'SETITEMS':
        return _filled(taken[0], _pairs(taken[1:]))
      case 'DUP':
        return taken[0]
      case 'GET' | 'BINGET' | 'LONG_BINGET':
        return self._memo[value]
      case 'GLOBAL':
        return self._find(*value.split(' ', 1))
      case 'STACK_GLOBAL':
        return self._find(*taken)
      case 'EXT1' | 'EXT2' | 'EXT4':  # names by number; valid in one process, not in a file
        raise self._refused(f'extension {value}')
      case 'PERSID' | 'BINPERSID':
        return self.persistent_load(*taken or (value,))
      case 'REDUCE' | 'NEWOBJ':
        return self._make(*taken)
      case 'NEWOBJ_EX':
        return self._make(taken[0], (*taken[1], taken[2]))
      case 'INST':
        return self._make(self._find(*value.split(' ', 1)), tuple(taken))
      case 'OBJ':
        return self._make(taken[0], tuple(taken[1:]))
      case 'BUILD':
        return self.build(*taken)
    if value is None:
      raise pickle.UnpicklingError(f'a step {step}')
    return value  # the many steps that are a number, text or bytes
