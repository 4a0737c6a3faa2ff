"""The servers that are measured, one file each, all speaking the same little protocol of paths.

| path | a message sent to it |
|---|---|
| `/echo` | comes back as it is |
| `/group` | goes as it is to everybody connected to `/group` |
| `/json` | is decoded from JSON and sent, encoded anew, to everybody connected to `/json` |

Each is written the way its own documentation recommends, for one process, with compression off.
"""
