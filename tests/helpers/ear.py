"""A judge that is a program: `python -m tests.helpers.ear [--deaf | --length] FILE...`. It hears
"alpha" in every sound; or, deaf, nothing; or it tells how many seconds a sound lasts.
"""

import sys

import soundfile

for argument in sys.argv[1:]:
  if argument == '--deaf':
    continue
  if '--length' in sys.argv:
    if argument != '--length':
      print(soundfile.info(argument).duration)
  else:
    print('' if '--deaf' in sys.argv else 'alpha')
