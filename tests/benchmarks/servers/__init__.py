"""The servers that are measured, one file each, all speaking the same little protocol of paths.

| path | a message sent to it |
|---|---|
| `/echo` | comes back as it is |
| `/group` | goes as it is to everybody connected to `/group` |
| `/json` | is decoded from JSON and sent, encoded anew, to everybody connected to `/json` |
| `/deflate` | goes as it is to everybody connected to `/deflate`, compressed |
| `/checkpoint` | comes back when the handler has let the loop take a turn |
| `/sleep` | comes back when the handler has slept for 10 ms |

Those with an engine between several processes of theirs (`*_across`, `*_redis_peer`) have in its stead:

| path | a message sent to it |
|---|---|
| `/group` | (members of the group; they send nothing) |
| `/send` | goes as it is to everybody connected to `/group`, to whichever process |
| `/job` | goes as a job to one of the worker processes, which say when it is done |
| `/other` | (members of another group) |

A GET of `/answer` is answered by `scenarios.ANSWER` as JSON. A server has those paths that its scenarios need.

Each is written the way its own documentation recommends, for one process, with compression off unless it is
started with `--compression`. A member that has gone while a message was on its way is not an error anywhere.
"""
