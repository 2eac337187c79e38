"""What the sidecars report of the traffic: who calls whom, how well, how often again, and what was seen of one request.

Owns the answers made from reports; it must never compile, push or open a socket.
"""
