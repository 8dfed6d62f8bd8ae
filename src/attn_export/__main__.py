"""Run the command line as ``python -m attn_export``."""

from attn_export.tools.entry import main

if __name__ == "__main__":
    main()
