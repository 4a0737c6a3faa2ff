"""Clients that misbehave by the hundred, against a server that is stopped and started; see run.py."""
