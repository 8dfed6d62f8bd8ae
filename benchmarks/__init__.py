"""Print the figures that the documentation and the closing notes name: one question a file.

What they run does its work each time, whatever a cache holds.
"""

import os

os.environ["ATTN_EXPORT_CACHE_DIR"] = "off"
