"""Writes an opened foreign checkpoint as a sharded checkpoint of our own, from which stages can
start (`train.init_from`).
"""

import jax
from jax.sharding import Mesh

from echox_jax import model_folder
from echox_jax.conversion import importers
from echox_jax.models import params as params_lib
from echox_jax.models.trees import flatten, unflatten
from echox_jax.parallel import placing, sharding
from echox_jax.storage import Path
from echox_jax.training import checkpoint


def write_checkpoint(
  model: importers.Model, out: Path, mesh: Mesh, dtype: str = 'keep', progress: bool = True
) -> int:
  """Writes `out`/checkpoints/0, and the other files of a model folder beside it, or nothing.

  Args:
    model: opened checkpoints.
    out: the folder.
    mesh: the devices that hold the parameters while writing, sharded as in training.
    dtype: dtype of the parameters; a key of `importers.DTYPES`.
    progress: whether to show a bar.

  Returns:
    Bytes of parameters.

  Raises:
    CheckpointError: tensors do not fit, a file is damaged, or `out` exists and is not a model.
    ConfigError: the mesh does not divide a parameter.
  """
  specs = importers.specs_of(model, dtype)
  boxed = jax.eval_shape(
    lambda key: params_lib.init_groups(key, model.config, model.groups), jax.random.key(0)
  )
  shardings = flatten(sharding.param_shardings(boxed, mesh))
  wanted = {
    path: jax.ShapeDtypeStruct(*spec, sharding=shardings[path]) for path, spec in specs.items()
  }
  with model_folder.writing(out) as beside:
    params = dict(placing.place(importers.watched(model.read(), specs, progress), wanted))
    checkpoint.save_params(beside, unflatten(params))
    importers.write_rest(model, beside)
  return sum(leaf.nbytes for leaf in params.values())
