"""Pickles that try to run something; each would create the file `mark` if it could."""

import builtins
import os
import pickle
import struct
import types

import numpy as np


class _Calls:
  """Pickles as a call."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def text(value: str) -> bytes:
  """The step that makes a text."""
  return pickle.BINUNICODE + struct.pack('<I', len(value)) + value.encode()


def plain(value) -> bytes:
  """The steps that make a number or a tuple of numbers."""
  return pickle.dumps(value, 2)[2:-1]


def _stack_global(module: str, name: str) -> bytes:
  return text(module) + text(name) + pickle.STACK_GLOBAL


def programs(mark: str) -> dict[str, tuple[bytes, str]]:
  """Name -> (pickle, what its refusal must say)."""
  shell = f'touch {mark}'
  code = f'open({mark!r}, "w")'
  call = text(shell) + pickle.TUPLE1 + pickle.REDUCE + pickle.STOP
  # hashing it takes 2^60 steps
  bomb = pickle.EMPTY_TUPLE + b''.join(pickle.DUP + pickle.TUPLE2 for _ in range(60))
  found = {
    'global': (b'cos\nsystem\n(' + text(shell) + b'tR.', "'os.system'"),
    'python 2 name': (b'c__builtin__\neval\n(' + text(code) + b'tR.', "'builtins.eval'"),
    'instance': (b'(' + text(shell) + b'ios\nsystem\n.', "'os.system'"),
    'object': (b'(cos\nsystem\n' + text(shell) + b'o.', "'os.system'"),
    'stack global': (
      b'\x80\x04' + _stack_global('subprocess', 'getoutput') + call,
      "'subprocess.getoutput'",
    ),
    'attribute of a known name': (
      b'\x80\x04' + _stack_global('collections', 'OrderedDict.__init__.__globals__') + call,
      'OrderedDict.__init__.__globals__',
    ),
    'module inside a known one': (
      b'\x80\x04' + _stack_global('torch._utils', 'os.system') + call,
      "'torch._utils.os.system'",
    ),
    'call of a text': (text('os.system') + call, 'a call of a str'),
    'state of a class': (
      b'ccollections\nOrderedDict\n}' + text('__call__') + text(shell) + b'sb.',
      'a state for a Global',
    ),
    'slots of a class': (
      b'ccollections\nOrderedDict\nN}' + text('x') + text(shell) + b's\x86b.',
      'a state for a Global',
    ),
    'state of a text': (text('x') + b'}b.', 'a state for a str'),
    'elements of a text': (text('x') + b'Na.', 'elements for a str'),
    'tuple bomb as key': (b'}' + bomb + b'Ns.', 'a tuple as key'),
    'array of objects': (
      pickle.dumps(np.array([_Calls(os.system, shell)], object), 4),
      'a dtype O8',
    ),
    'object dtype': (pickle.dumps(np.array([None, None], object), 2), 'a dtype O8'),
    'extension': (b'\x80\x02' + pickle.EXT1 + b'\x07' + call, "'extension 7'"),
  }
  for protocol in range(6):
    found[f'os.system {protocol}'] = (
      pickle.dumps(_Calls(os.system, shell), protocol),
      "'posix.system'",
    )
    nested = {'generator': [{'a': _Calls(builtins.exec, code)}]}
    found[f'nested exec {protocol}'] = (pickle.dumps(nested, protocol), "'builtins.exec'")
    found[f'getattr {protocol}'] = (
      pickle.dumps(_Calls(getattr, types.SimpleNamespace(), 'x'), protocol),
      "'builtins.getattr'",
    )
  return found
