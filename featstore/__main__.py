"""``python -m featstore`` is the command ``featstore``."""

from featstore.cli import main

main()
