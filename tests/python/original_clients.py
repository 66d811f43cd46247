"""The original's clients against the servers named on the command line, unmodified.

usage: original_clients.py INTERNAL PUBLIC PROTECTED IDENTIFIER KEY

Prints one line of JSON for each thing that a site does with them; the test judges.
"""
import asyncio
import json
import sys
from uuid import UUID

from aiohttp import ClientSession, web
from jwthenticator.client import Client, InternalClient
from jwthenticator.exceptions import AuthenticationError
from jwthenticator.server_utils import authenticate

internal, public, protected, identifier, key = sys.argv[1:]
identifier = UUID(identifier)


def say(what, result):
    print(json.dumps({"what": what, "result": result}), flush=True)


async def decorated():
    """A service whose handler asks the public server about each token."""
    @authenticate(public)
    async def handler(request):
        return web.json_response({"reached": True})

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    return runner, f"http://127.0.0.1:{port}/"


async def main():
    administrator = InternalClient(internal, identifier)
    say("registered before", await administrator.is_key_registered(key))
    await administrator.register_key(key)
    await administrator.register_key(key)
    say("registered after", await administrator.is_key_registered(key))

    client = Client(public, identifier, key=key)
    await client.authenticate()
    say("authenticate", [bool(client.jwt), len(client.refresh_token), client.is_jwt_expired])
    first = client.jwt
    await client.refresh()
    say("refresh", client.jwt != first)
    only_refresh = Client(public, identifier, refresh_token=client.refresh_token)
    await only_refresh.refresh()
    await only_refresh.refresh()
    say("refresh token again", bool(only_refresh.jwt))

    runner, service = await decorated()
    say("decorator", (await client.get_with_auth(service)).status)
    fresh = Client(public, identifier, key=key)
    say("decorator, first request", (await fresh.get_with_auth(service)).status)
    say("protected by nginx", (await client.get_with_auth(protected)).status)
    # A token that is refused makes it renew once, and go on.
    client.jwt = first[:-4] + "AAAA"
    say("renewed after 401", (await client.get_with_auth(service)).status)
    async with ClientSession() as session:
        async def status(headers):
            async with session.get(service, headers=headers) as answer:
                return answer.status
        say("decorator, no header", await status({}))
        say("decorator, garbage", await status({"Authorization": "Bearer garbage"}))
        say("decorator, malformed", await status({"Authorization": "bearer x y"}))
    await runner.cleanup()

    try:
        await Client(public, identifier, key="unknown").authenticate()
        say("unknown key", "accepted")
    except AuthenticationError:
        say("unknown key", "refused")


asyncio.run(main())
