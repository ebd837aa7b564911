"""Reading pickles without running what they name.

A pickle is a program: it names functions and classes and has them called. Here the names are only
looked up in a table of harmless stand-ins of ours, nothing is ever imported, and every call, state
and item that the pickle asks for goes through the methods below. A name that is not in the table is
refused.
"""

import _compat_pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import os
import pickle
import re
import struct
from typing import Any, BinaryIO

import numpy as np

from echox_jax import errors

# What a damaged pickle can make of the reader.
_DAMAGE = (
  pickle.UnpicklingError,
  EOFError,
  LookupError,
  TypeError,
  ValueError,
  AttributeError,
  ArithmeticError,
  AssertionError,
  MemoryError,
  struct.error,
)
_MAX_LINE = 1 << 16  # bytes of a name or number that is written out in text
_CODE = re.compile(r'[?biufcSU]\d{0,9}')  # codes of numpy dtypes of plain values
_SCALARS = (str, bytes, int, float, complex, bool, type(None), np.generic)


@dataclasses.dataclass(frozen=True)
class Global:
  """A name that a pickle mentions, not looked up anywhere."""

  name: str


@dataclasses.dataclass(eq=False)
class Record:
  """Stands for an object of a foreign class and does nothing.

  Attributes:
    name: of its class.
    args: what it would have been made from.
    state: its attributes, usually a dict.
    items: elements, or (key, value) pairs, that were put into it.
  """

  name: str
  args: tuple = ()
  state: Any = None
  items: list = dataclasses.field(default_factory=list)


class DType:
  """A numpy dtype while it is being read; only plain numbers, bytes and text."""

  def __init__(self, code: str, *_: Any):
    if type(code) is not str or not _CODE.fullmatch(code):
      raise pickle.UnpicklingError(
        f'a dtype {code:.20}' if type(code) is str else f'a dtype of {type(code).__name__}'
      )
    self._dtype = np.dtype(code)

  def set_order(self, state: Sequence[Any]) -> None:
    """Takes the byte order from numpy's state of a dtype."""
    if state[1] not in ('<', '>', '|', '='):
      raise pickle.UnpicklingError('a dtype of no byte order')
    self._dtype = self._dtype.newbyteorder(state[1])

  @staticmethod
  def of(value: Any) -> np.dtype:
    """The numpy dtype of what a pickle gave as one."""
    if not isinstance(value, DType):
      raise pickle.UnpicklingError(f'a dtype that is {type(value).__name__}')
    return value._dtype


class Stream:
  """A file whose reads come back whole or fail, so that no length written in a pickle is
  believed.
  """

  def __init__(self, file: BinaryIO):
    self._file = file
    start = file.tell()
    self._end = file.seek(0, os.SEEK_END)
    file.seek(start)

  def read(self, size: int) -> bytes:
    """Exactly `size` bytes."""
    if not 0 <= size <= self._end - self._file.tell():
      raise EOFError
    return self._file.read(size)

  def readline(self) -> bytes:
    """One line with its end."""
    line = self._file.readline(_MAX_LINE)
    if not line.endswith(b'\n'):
      raise EOFError
    return line

  def skip(self, size: int) -> None:
    """Passes over `size` bytes."""
    if not 0 <= size <= self._end - self._file.tell():
      raise EOFError
    self._file.seek(size, os.SEEK_CUR)

  def tell(self) -> int:
    """Position in the file."""
    return self._file.tell()


def _bytes(text: Any, encoding: str = 'latin1') -> bytes:
  """`_codecs.encode`, by which old protocols write bytes."""
  if isinstance(text, bytes):
    return text
  if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
    raise pickle.UnpicklingError('bytes in another encoding than latin1')
  return text.encode('latin1')


def _scalar(dtype: Any, data: Any) -> np.generic:
  return np.frombuffer(_bytes(data), DType.of(dtype), count=1)[0]


def _set_array(array: np.ndarray, state: Sequence[Any]) -> None:
  """Fills an array that `_reconstruct` made, in place: others may refer to it already."""
  _, shape, dtype, fortran, data = state
  array.__setstate__((1, check_sizes(shape), DType.of(dtype), bool(fortran), _bytes(data)))


def _reconstructor(cls: Any, *_: Any) -> Record:
  """`copyreg._reconstructor`: how protocols 0 and 1 make any object."""
  if not isinstance(cls, Global):
    raise pickle.UnpicklingError('an object of no class')
  return Record(cls.name)


def check_sizes(values: Any) -> tuple[int, ...]:
  """A tuple of sizes from a pickle: plain integers, none negative, not more than numpy has axes
  for.
  """
  if (
    type(values) not in (tuple, list)
    or len(values) > 32
    or any(type(n) is not int or n < 0 for n in values)
  ):
    raise pickle.UnpicklingError('sizes that are no integers from 0')
  return tuple(values)


def _items(into: dict, pairs: Iterable[tuple[Any, Any]]) -> None:
  for key, value in pairs:
    # not deeper: hashing tuples of tuples of tuples may never end
    parts = key if type(key) is tuple else (key,)
    if not all(isinstance(part, _SCALARS) for part in parts):
      raise pickle.UnpicklingError(f'a {type(key).__name__} as key')
    into[key] = value


def _dict(pairs: Iterable[tuple[Any, Any]] = ()) -> dict:
  made = {}
  _items(made, pairs)
  return made


def _set(values: Any = None) -> list:
  return values if type(values) is list else []  # a list, so that what is in it need not be hashed


# Name -> what is called in its place.
PLAIN: Mapping[str, Callable[..., Any]] = {
  'collections.OrderedDict': _dict,
  'collections.defaultdict': lambda *_: {},
  'builtins.dict': _dict,
  'builtins.set': _set,
  'builtins.frozenset': _set,
  '_codecs.encode': _bytes,
  'copyreg._reconstructor': _reconstructor,
  'numpy.dtype': DType,
  'numpy.ndarray': lambda *args: Record('numpy.ndarray', args),
  **{f'numpy.{core}.multiarray.scalar': _scalar for core in ('core', '_core')},
  **{
    f'numpy.{core}.multiarray._reconstruct': lambda *_: np.ndarray((0,), np.int8)
    for core in ('core', '_core')
  },
}


# the one in Python: its steps can be replaced, which those of the C one cannot
class SafeUnpickler(pickle._Unpickler):
  """Reads one pickle of a stream.

  Args:
    stream: positioned where the pickle starts; left right behind it.
    where: the file, for messages.
    makers: name -> function of ours that is called in its place.
    records: names that become `Record`s; one with a `.` at its end stands for all names under it.
  """

  def __init__(
    self,
    stream: Stream,
    where: os.PathLike[str] | str,
    makers: Mapping[str, Callable[..., Any]],
    records: Sequence[str] = (),
  ):
    super().__init__(stream, encoding='latin1')
    self.stream, self.where = stream, where
    self._makers, self._records = makers, frozenset(records)
    self._prefixes = tuple(name for name in records if name.endswith('.'))

  def load(self) -> Any:
    """The object.

    Raises:
      CheckpointError: a name outside the tables, or a damaged pickle.
    """
    try:
      return super().load()
    except _DAMAGE as error:
      reason = f' ({error})' if isinstance(error, pickle.UnpicklingError) else ''
      raise errors.CheckpointError(
        f'{self.where} is truncated, damaged or of another kind{reason}: get the file again, or '
        'one with plain tensors.'
      ) from error

  def refuse(self, name: str) -> errors.CheckpointError:
    """The error of a name that is not known."""
    return errors.CheckpointError(
      f'{self.where} asks for {name!r}, which is not part of plain tensors and is never run: '
      'give a file without it.'
    )

  def find_class(self, module: str, name: str) -> Global:
    """Overrides the look-up: nothing is imported."""
    if (module, name) in _compat_pickle.NAME_MAPPING:  # names of Python 2
      module, name = _compat_pickle.NAME_MAPPING[module, name]
    module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    full = f'{module}.{name}'
    if full in self._makers or full in self._records or full.startswith(self._prefixes):
      return Global(full)
    raise self.refuse(full)

  def make(self, cls: Any, args: Any) -> Any:
    """Calls what stands for `cls`, or records the call."""
    if not isinstance(cls, Global):
      raise pickle.UnpicklingError(f'a call of a {type(cls).__name__}')
    if type(args) is not tuple:
      raise pickle.UnpicklingError(f'a {type(args).__name__} for arguments')
    maker = self._makers.get(cls.name)
    return Record(cls.name, args) if maker is None else maker(*args)

  def build(self, target: Any, state: Any) -> Any:
    """Gives `target` its state and returns it, or what it then is."""
    if isinstance(target, Record):
      target.state = state
    elif isinstance(target, DType):
      target.set_order(state)
    elif type(target) is np.ndarray:
      _set_array(target, state)
    elif type(target) is not dict:  # an OrderedDict's attributes are of no use
      raise pickle.UnpicklingError(f'a state for a {type(target).__name__}')
    return target

  def extend(self, target: Any, values: Sequence[Any]) -> None:
    """Appends to a list."""
    if type(target) is not list and not isinstance(target, Record):
      raise pickle.UnpicklingError(f'elements for a {type(target).__name__}')
    (target.items if isinstance(target, Record) else target).extend(values)

  def set_items(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
    """Puts pairs into a dict."""
    if isinstance(target, Record):
      target.items.extend(pairs)
    elif type(target) is dict:
      _items(target, pairs)
    else:
      raise pickle.UnpicklingError(f'keys for a {type(target).__name__}')

  def get_extension(self, code: int) -> None:
    """Overrides the names by number, which belong to the process and not to the file."""
    raise self.refuse(f'extension {code}')

  def _instantiate(self, klass: Any, args: list) -> None:
    """Overrides the step of INST and OBJ."""
    self.append(self.make(klass, tuple(args)))

  def _reduce(self) -> None:
    args = self.stack.pop()
    self.stack[-1] = self.make(self.stack[-1], args)

  def _reduce_with_names(self) -> None:
    names, args = self.stack.pop(), self.stack.pop()
    self.stack[-1] = self.make(self.stack[-1], (*args, names))

  def _build(self) -> None:
    state = self.stack.pop()
    self.stack[-1] = self.build(self.stack[-1], state)

  def _append(self) -> None:
    value = self.stack.pop()
    self.extend(self.stack[-1], [value])

  def _appends(self) -> None:
    values = self.pop_mark()
    self.extend(self.stack[-1], values)

  def _set_item(self) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self.set_items(self.stack[-1], [(key, value)])

  def _set_items(self) -> None:
    values = self.pop_mark()
    self.set_items(self.stack[-1], list(zip(values[::2], values[1::2], strict=True)))

  def _new_dict(self) -> None:
    values = self.pop_mark()
    self.append(_dict(zip(values[::2], values[1::2], strict=True)))

  def _new_list(self) -> None:
    self.append([])

  def _marked_list(self) -> None:
    self.append(list(self.pop_mark()))

  dispatch = pickle._Unpickler.dispatch | {
    pickle.REDUCE[0]: _reduce,
    pickle.NEWOBJ[0]: _reduce,
    pickle.NEWOBJ_EX[0]: _reduce_with_names,
    pickle.BUILD[0]: _build,
    pickle.APPEND[0]: _append,
    pickle.APPENDS[0]: _appends,
    pickle.ADDITEMS[0]: _appends,
    pickle.EMPTY_SET[0]: _new_list,
    pickle.FROZENSET[0]: _marked_list,
    pickle.SETITEM[0]: _set_item,
    pickle.SETITEMS[0]: _set_items,
    pickle.DICT[0]: _new_dict,
  }
