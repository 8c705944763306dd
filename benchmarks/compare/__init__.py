"""Quidditch and its rivals on the same documents and queries: first the same answers, then the times.

``python -m benchmarks.compare --corpus perf.jsonl --queries perf.queries.jsonl --work indexes``

``workload`` says what is asked, ``engine`` what an engine must be able to do, ``engines/`` has a file for each, or
a folder where it is a program of its own (``outside`` speaks with it). ``worker`` runs one engine in a process of
its own, ``measure`` lets the workers take turns, ``timing`` reduces the rounds, ``report`` writes the tables,
``chart`` draws.
"""
