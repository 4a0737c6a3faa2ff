"""HTTP/1.1 on one connection: reading requests, writing responses."""
