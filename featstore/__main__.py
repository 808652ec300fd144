"""``python -m featstore`` is the command ``featstore``."""

from featstore.command import main

main()
