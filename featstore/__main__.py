"""Make ``python -m featstore`` run the command ``featstore``."""

from featstore.cli import main

main()
