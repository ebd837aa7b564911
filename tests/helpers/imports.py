"""Imports of released folders, as the command makes them."""

import numpy as np

from echox_jax.models.trees import flatten
from launch import convert
from tests.helpers import released_folder

WEIGHTS = released_folder.weights('echox/')


def run(kind: str, source, out, *more) -> None:
  convert.main(
    ['import', '--kind', kind, '--source', str(source), '--out', str(out), *map(str, more)]
  )


def same(found, wanted):
  found, wanted = flatten(dict(found)), flatten(dict(wanted))
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
