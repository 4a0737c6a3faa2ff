"""The engine between processes: one valkey-server, on a core of its own choice, for as long as standard input is open.

Says where it is in a line of JSON; answers commands as the load generator does.
"""

from __future__ import annotations

import json
import os
import sys

import redis
from engines import engine

GROUP = "room"
"""The busy group; its name is in that of the channel that every server publishes it by."""


def subscribers(client: redis.Redis, prefix: str) -> int:
    names = client.pubsub_channels(f"*{prefix}*{GROUP}*")
    return max((count for _, count in client.pubsub_numsub(*names)), default=0)


def main() -> None:
    with engine() as running:
        assert running.process is not None
        os.sched_setaffinity(running.process.pid, {int(sys.argv[1])})
        print(json.dumps({"url": running.url, "pid": running.process.pid}), flush=True)
        client = redis.Redis(unix_socket_path=running.path)
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = {"count": subscribers(client, command["prefix"])}
            except redis.RedisError as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
