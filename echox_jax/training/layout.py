"""What lies in the folder of a stage; reading these names needs no JAX."""

CONFIG = 'config.json'  # the job
METRICS = 'metrics.jsonl'  # see `metrics`
CHECKPOINTS = 'checkpoints'  # see `checkpoint`
FINISHED = 'finished.json'  # the summary of a finished stage
BAD_BATCHES = 'not_finite'  # see `not_finite`
PROFILE = 'profile'
