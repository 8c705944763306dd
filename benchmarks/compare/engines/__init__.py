"""The engines that can be compared, a file or folder each: a class ``Rival`` that derives from ``Engine``."""
