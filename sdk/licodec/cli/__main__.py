"""`python -m licodec.cli`, for where the console script is not on the path."""

from licodec.cli import main

main()
