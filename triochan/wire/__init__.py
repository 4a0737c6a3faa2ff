"""Bytes to messages and back: frames, control, handshakes, outboxes, sockets."""
