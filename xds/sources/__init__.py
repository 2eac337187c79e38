"""Where the world comes from: a directory of manifests, and the store that both sources fill."""
