"""What happens to one request, read from what the compiler makes of the world, with the object that decides each step.

It owns the walk and its words; it must never compile anything itself, and never change what it looks at.
"""
