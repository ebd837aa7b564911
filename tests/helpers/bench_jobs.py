"""Measures of `launch.bench`, run in this process."""

import argparse

from launch.bench import __main__
from tests.helpers import words

PLACES = words.PLACES[:11]


def measure(name, *arguments):
  """The figures of a measure with the options of its command line."""
  module, parser = __main__.MEASURES[name], argparse.ArgumentParser()
  module.add_options(parser)
  return module.measure(parser.parse_args(list(map(str, arguments))))
