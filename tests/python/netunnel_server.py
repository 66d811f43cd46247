"""Runs the original NETunnel server, as `python -m netunnel.server` does, after two changes.

Without the first the server can send no message from Python 3.10 on: `asyncio.Event` takes no `loop` any more. The
second gives its static tunnels ports of their own: the server ends itself if another program, such as our daemon in a
test beside it, takes the port that it has just found free.
"""

import asyncio
import runpy
import sys

plain = asyncio.Event.__init__
asyncio.Event.__init__ = lambda self, loop=None: plain(self)
from netunnel.common import const  # noqa: E402

const.MIN_STATIC_TUNNEL_LOCAL_PORT, const.MAX_STATIC_TUNNEL_LOCAL_PORT = 21500, 21999
sys.argv = ["netunnel.server"] + sys.argv[1:]
runpy.run_module("netunnel.server", run_name="__main__", alter_sys=True)
