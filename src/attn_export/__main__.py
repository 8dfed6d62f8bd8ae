"""Run the command line as ``python -m attn_export``."""

from attn_export.tools.cli import main

if __name__ == "__main__":
    main()
