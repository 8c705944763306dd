"""The log of operations that the newest manifest does not hold yet. It knows no segments.

It will hold three modules: ``record`` (bytes of one operation and of a checksummed batch), ``log`` (files on
disk: append, group commit, rotate, trim) and ``replay`` (operations back in order, with the rules for a torn
tail). It writes only through `quidditch_core.files.Files`. Until it does, what was not flushed does not
survive a crash.
"""
