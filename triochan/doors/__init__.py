"""Other servers' sockets, handed to a routing."""
