"""The commands of ``proa``, one file per verb; heavy imports stay inside the functions."""
