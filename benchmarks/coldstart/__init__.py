"""How long a fresh process takes to its first answer, beside ``python -c "import numpy"``."""
