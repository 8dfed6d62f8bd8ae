"""Results kept by their content, so that what was proven here once is not proven again.

    place     where they lie, how much they may take, and whether the folder is to be believed
    house     what every result depends on: this package's code, what is installed, the machine, settings of libraries
    needs     what one result depends on besides: files, folders and variables that were read on the way
    watch     what somebody's code reads while it is loaded
    store     entries: put in whole or not at all, taken out by their hashes, the least used removed first
    notes     short ones by a key, such as what words mean that were typed

Nothing here knows what is kept, imports NumPy, or unpickles anything.
"""
