"""The engines that can be compared, a file each: a class ``Rival`` that derives from ``Engine``."""
