"""The engine: from documents to segments, from queries to hits. ``facade`` is its public face."""
