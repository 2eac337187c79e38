"""The demonstration: real services behind real Envoys on loopback addresses, without root and without a cluster.

Its parts (find and build, start, watch, report) are also what the tests with real Envoys stand on; nothing here
may be imported by the control plane.
"""
