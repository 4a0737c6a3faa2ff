"""One WebSocket: its life, what comes in, how it opens, the program's side of it."""
