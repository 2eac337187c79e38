"""Proa: one xDS control plane for stock Envoy sidecars.

Owns nothing but the name; it must never import anything, so that ``proa --help`` stays cheap.
"""
