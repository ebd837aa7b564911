"""What lies in a working folder and in the folder of a stage; reading these names needs no JAX."""

# in a working folder
DATA = 'data'  # data sets, unless the config names another folder
PARTS = 'parts'  # beside data sets: notes and unfinished work of the jobs that make them
NOTES = 'notes'  # in the folder of a job in PARTS: a note for each shard
READING_IN = 'corpus-'  # in PARTS, before a prefix: the job that reads sets of that prefix in

# in the folder of a stage
CONFIG = 'config.json'  # the job
METRICS = 'metrics.jsonl'  # see `metrics`
CHECKPOINTS = 'checkpoints'  # see `checkpoint`
FINISHED = 'finished.json'  # the summary of a finished stage
BAD_BATCHES = 'not_finite'  # see `not_finite`
PROFILE = 'profile'
