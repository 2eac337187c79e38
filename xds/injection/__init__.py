"""Injection: what a sidecar adds to a Pod, decided and written without Kubernetes in reach.

It owns the patch, the annotations that shape it and the answer to an AdmissionReview; it must never look anything
up, and never change what is the user's beyond the probes that interception would falsify.
"""
