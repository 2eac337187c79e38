"""One IR node in, one Envoy resource out as bytes: the skeleton that every proxy gets."""
