"""What became of a figure over time: where it changed, whether its last run is worse, and what could have been seen.

    student       Student's t
    change        where a series of figures, each with a doubt of its own, has changed its level
    series        figures of a store that may be compared with each other
    judge         the verdict on each series

Nothing here prints, opens a database or imports more than the standard library.
"""
