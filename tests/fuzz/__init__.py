"""Fuzzing: whatever bytes come from outside, only documented errors, bounded memory, and a good peer goes on.

``targets`` names what is fuzzed. The tests replay the corpus and mutations of it; ``python -m tests.fuzz``
looks for more, for as long as it is told to. CONTRIBUTING.md says how to use it.
"""
