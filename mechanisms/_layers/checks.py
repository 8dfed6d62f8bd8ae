"""Refusals that many entries share: an option that must count something says so before anything divides by it."""


def positive(**options: float | None) -> None:
    """Refuse an option below one; None stands for an option that was not given.

    Raises:
        ValueError: an option is below one; it is named.

    >>> positive(channels=8, heads=0)
    Traceback (most recent call last):
    ...
    ValueError: heads must be at least 1; it is 0
    """
    _at_least(1, options)


def not_negative(**options: float | None) -> None:
    """Refuse an option below zero; None stands for an option that was not given.

    Raises:
        ValueError: an option is below zero; it is named.
    """
    _at_least(0, options)


def _at_least(least: int, options: dict[str, float | None]) -> None:
    for name, value in options.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}; it is {value}")
