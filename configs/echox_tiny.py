"""Everything so small that a stage trains in seconds and answers are noise: it shows that commands
work, and the tests of long commands use it.

  python -m launch.ablate --preset tiny --out out/tiny

The stages are those of `echox_nano.py`.
"""

from ml_collections import ConfigDict

from configs import echox_nano

_TRUNK = dict(
  hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16
)


def get_config(stage: str = 's2t') -> ConfigDict:
  """The job of one stage: text, s2t, t2c, echo or vocoder."""
  config = echox_nano.get_config(stage)
  model = config.model
  model.adapter.update(dict(num_heads=2, intermediate_size=32))
  model.llm.update(_TRUNK)
  model.llm.lora.rank = 2
  model.unit_decoder.update(dict(denoising_intermediate_size=64))
  model.unit_decoder.trunk.update(_TRUNK)
  model.vocoder.update(
    dict(
      embedding_dim=16,
      model_in_dim=16,
      upsample_initial_channel=32,
      resblock_kernel_sizes=(3,),
      resblock_dilation_sizes=((1,),),
      context_dilations=(),
    )
  )
  model.vocoder.duration.hidden_size = 16
  config.engine.update(dict(max_new_tokens=12, max_unit_words=24, max_frames=160, questions=2))
  config.train.loss.max_new_tokens = config.engine.max_new_tokens
  config.train.discriminators.update(
    dict(
      periods=(2,),
      period_channels=(4, 8),
      num_scales=1,
      scale_channels=(4, 8),
      scale_kernel_sizes=(15, 5),
      scale_strides=(2, 1),
      scale_groups=(1, 1),
    )
  )
  config.train.update(dict(steps=2, batch_size=2, checkpoint_every=1, eval_every=0, init_from=()))
  config.train.optimizer.warmup_steps = 1
  config.train.loss.slices_per_batch = 0
  config.data.update(dict(eval_sets=(), packing=False))
  return config
