"""The log of operations that the newest manifest does not hold yet. It knows no segments.

``record`` is the bytes of operations and of checksummed batches; ``log`` the files on disk: append, group
commit, rotate, trim; ``replay`` what they say after a crash, with the rules for an end that is not whole.
FORMAT.md draws the bytes and the rules. All I/O goes through `quidditch_core.files.Files`.
"""
