"""Results that last: every run as a file that is named by its hash, and an index of them that can be made again.

    record        one run: when, on which machine, of what, and the report as it came
    folder        the files: written whole or not at all, one writer at a time, read only if they are what they say
    figures       what of a report is followed over time: times, ratios, errors, each with its interval
    index         SQLite over those figures, for asking; made of the files, and never the only place of anything

Nothing here imports more than the standard library: a page, a gate or a notebook can ask the index without a runtime.
"""
