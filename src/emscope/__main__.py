"""`python -m emscope` is `emscope`."""

from emscope.commands.main import main

main()
