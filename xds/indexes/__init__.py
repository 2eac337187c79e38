"""The world from one side each: what an object changes there, and the topics that it changes for those who asked.

An index owns one question (who stands behind a Service, whose an address is) and its order among equals;
it must never ask another index, nor the compiler.
"""
