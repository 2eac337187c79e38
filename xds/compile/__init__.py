"""Pure compilation: what the world says, as IR nodes for services, route tables and proxies.

Every function reads the world through a Lens, which remembers the topics it asked for; the
plan compiles a unit again when one of them is touched. Nothing here may keep state, look at
other units' results, or know what a proxy already has.
"""
