"""Who talks to the Kubernetes API, and nobody else: a client, and what is asked and written with it."""
