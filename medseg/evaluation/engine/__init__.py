"""The engine of all surface metrics: one sweep for all labels, exact nearest distances, and the sums over them.

Twice: compiled (`compiled.py` and what it puts together), and in NumPy and SciPy (`plain.py`), which is its oracle and
what is left where numba is not. `choice.py` chooses.
"""
